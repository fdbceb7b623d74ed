"""Blocks: money of a project that is reserved already, from which a process spends. Pure.

    lease ──> in use ── take ──> held by a spend ── end ──> its cost is gone, its rest is free
                 │
                 └── BLOCK_SECONDS ──> retired: what is free goes back; closed when none is held

Amounts are millionths of a US dollar, times are seconds of a clock that only goes forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

BLOCK_SECONDS = 5.0
"""How long spends begin on a block: after so long a budget that was lowered holds, and so does a
purge, and money that nobody wanted is back."""


@dataclass(slots=True, eq=False)
class Block:
    """One reservation, shared by spends."""

    project_id: str
    reservation: UUID
    amount: int
    """What of it is neither spent nor given back; less than nothing when a spend came to more
    than its estimate."""
    since: float
    """When it was asked for."""
    held: int = 0
    """The estimates of spends under way."""
    spends: int = 0
    """How many those are."""

    @property
    def free(self) -> int:
        """What another spend may take."""
        return self.amount - self.held

    def end(self, estimate: int, cost: int) -> None:
        """A spend that had taken `estimate` came to `cost`."""
        self.spends -= 1
        self.held -= estimate
        self.amount -= cost


@dataclass(frozen=True, slots=True)
class Return:
    """What of a block goes back to the project's budget."""

    project_id: str
    reservation: UUID
    back_micro_usd: int
    done: bool
    """Whether the block is closed: whatever is left of it goes back then."""


class Blocks:
    """The blocks that a process has."""

    def __init__(self) -> None:
        self._blocks: defaultdict[str, list[Block]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, block: Block) -> None:
        """A block that was just leased."""
        self._blocks[block.project_id].append(block)

    def take(self, project_id: str, estimate: int, now: float) -> Block | None:
        """A block that the estimate is now taken from; None when no block has so much."""
        for block in self._blocks.get(project_id, ()):
            if block.free >= estimate and now - block.since < BLOCK_SECONDS:
                block.held += estimate
                block.spends += 1
                return block
        return None

    def due(self, now: float) -> list[Return]:
        """What goes back by itself: of blocks that are retired, or have nothing left."""
        return self._give_back(
            block
            for blocks in self._blocks.values()
            for block in blocks
            if block.amount <= 0 or now - block.since >= BLOCK_SECONDS
        )

    def idle(self, project_id: str) -> list[Return]:
        """Everything of a project that no spend holds goes back at once."""
        return self._give_back(self._blocks.get(project_id, ()))

    def all_idle(self) -> list[Return]:
        """Everything of every project that no spend holds goes back at once."""
        return self._give_back(block for blocks in self._blocks.values() for block in blocks)

    def _give_back(self, blocks: Iterable[Block]) -> list[Return]:
        given = []
        for block in list(blocks):
            back, done = max(0, block.free), not block.spends
            if not (back or done):
                continue
            block.amount -= back
            given.append(Return(block.project_id, block.reservation, back, done))
            if done:
                self._forget(block)
        return given

    def _forget(self, block: Block) -> None:
        left = self._blocks[block.project_id]
        left.remove(block)
        if not left:
            del self._blocks[block.project_id]
