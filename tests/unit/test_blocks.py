"""Whatever order spends come and go in, no money of a block is used twice and none is kept."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID, uuid4

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshkit.usage.blocks import BLOCK_SECONDS, Block, Blocks, Return

AMOUNTS = st.integers(1, 100)
PROJECTS = st.sampled_from(["prj_a", "prj_b"])


def block(amount: int, project: str = "prj_a", since: float = 0.0) -> Block:
    return Block(project, uuid4(), amount, since)


def test_spends_share_a_block_and_what_one_does_not_need_another_takes() -> None:
    blocks = Blocks()
    blocks.add(block(100))
    first, second = blocks.take("prj_a", 60, 0.0), blocks.take("prj_a", 40, 0.0)
    assert first is second is not None
    assert blocks.take("prj_a", 1, 0.0) is None
    first.end(60, 25)
    assert blocks.take("prj_a", 35, 0.0) is first
    assert blocks.take("prj_a", 1, 0.0) is None


def test_no_spend_begins_on_a_block_after_its_time() -> None:
    blocks = Blocks()
    blocks.add(block(100, since=7.0))
    assert blocks.take("prj_a", 10, 7.0 + BLOCK_SECONDS - 0.01)
    assert blocks.take("prj_a", 10, 7.0 + BLOCK_SECONDS) is None


def test_a_block_is_its_projects_own() -> None:
    blocks = Blocks()
    blocks.add(block(100))
    assert blocks.take("prj_b", 1, 0.0) is None
    assert not blocks.idle("prj_b")


def test_a_retired_block_gives_back_what_is_free_and_the_rest_when_its_last_spend_ends() -> None:
    blocks, leased = Blocks(), block(100)
    blocks.add(leased)
    blocks.take("prj_a", 30, 0.0)
    assert blocks.due(BLOCK_SECONDS - 0.01) == []
    assert blocks.due(BLOCK_SECONDS) == [Return("prj_a", leased.reservation, 70, False)]
    assert blocks.due(BLOCK_SECONDS + 1) == []
    leased.end(30, 12)
    assert blocks.due(BLOCK_SECONDS + 2) == [Return("prj_a", leased.reservation, 18, True)]
    assert not blocks


def test_a_block_without_anything_left_is_closed_before_its_time() -> None:
    blocks, leased = Blocks(), block(10)
    blocks.add(leased)
    blocks.take("prj_a", 10, 0.0)
    leased.end(10, 15)
    assert blocks.due(0.1) == [Return("prj_a", leased.reservation, 0, True)]
    assert not blocks


class Histories(RuleBasedStateMachine):
    """Beside the blocks, what Postgres would know when everything was told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.blocks = Blocks()
        self.reserved: dict[UUID, int] = {}
        self.flying: list[tuple[Block, int]] = []

    @rule(project=PROJECTS, amount=AMOUNTS)
    def a_lease(self, project: str, amount: int) -> None:
        leased = block(amount, project, self.now)
        self.reserved[leased.reservation] = amount
        self.blocks.add(leased)

    @rule(project=PROJECTS, estimate=AMOUNTS)
    def a_spend_begins(self, project: str, estimate: int) -> None:
        found = self.blocks.take(project, estimate, self.now)
        if found is not None:
            assert found.project_id == project
            assert self.now - found.since < BLOCK_SECONDS
            self.flying.append((found, estimate))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), cost=st.integers(0, 120))
    def a_spend_ends(self, data: st.DataObject, cost: int) -> None:
        found, estimate = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        found.end(estimate, cost)
        self._lower(found.reservation, cost)

    @rule(seconds=st.sampled_from([0.1, 1.0, BLOCK_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def what_is_due_goes_back(self) -> None:
        self._told(self.blocks.due(self.now))
        assert self.blocks.due(self.now) == []

    @rule(project=PROJECTS)
    def a_project_needs_its_money(self, project: str) -> None:
        self._told(self.blocks.idle(project))
        assert self.blocks.take(project, 1, self.now) is None

    @rule()
    def the_process_ends(self) -> None:
        self._told(self.blocks.all_idle())
        assert bool(self.blocks) == bool(self.flying)

    @invariant()
    def what_is_held_was_reserved_unless_a_spend_came_to_more_than_its_estimate(self) -> None:
        for found, _ in self.flying:
            assert found.reservation in self.reserved
            assert self.reserved[found.reservation] >= found.amount

    @invariant()
    def nothing_is_reserved_that_nobody_knows_of(self) -> None:
        if not self.blocks:
            assert self.reserved == {}
            assert not self.flying

    def _told(self, returns: Iterable[Return]) -> None:
        for told in returns:
            # Postgres never has less than what goes back, so nothing has to be clamped.
            assert 0 <= told.back_micro_usd <= self.reserved[told.reservation]
            self._lower(told.reservation, told.back_micro_usd)
            if told.done:
                assert told.reservation not in {found.reservation for found, _ in self.flying}
                assert self.reserved.pop(told.reservation) == 0

    def _lower(self, reservation: UUID, amount: int) -> None:
        self.reserved[reservation] = max(0, self.reserved[reservation] - amount)


TestHistories = Histories.TestCase
