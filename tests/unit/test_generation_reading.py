"""What a language model is given to read, and how a follow-up question is completed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from meshkit.errors import BudgetExhausted
from meshkit.providers import catalogue
from meshkit.providers.errors import Overloaded
from meshkit.providers.settings import load
from meshkit.usage import Spend
from services.generation.failover import LanguageModels
from services.generation.language_model import Role
from services.generation.opening import cheapest
from services.generation.passages import Chunk, Facet, Location, Passage
from services.generation.prompt import answer_prompt
from services.generation.rewriting import Completed, Rewriting
from services.generation.surrounding import fitting, room, surrounded, wanted
from tests.unit.test_generation_writing import Scripted, broken

WORDS = "word " * 60  # 100 tokens, as they are estimated


def chunk(ordinal: int, *, document: str = "doc_a", flags: tuple[str, ...] = ()) -> Chunk:
    name = f"{document}.1.{ordinal}"
    return Chunk(name, document, 1, ordinal, "Handbook", WORDS, Location(page=1), flags)


def hits(*ordinals: int) -> list[Passage]:
    return [Passage(str(n), chunk(o), 1 / n) for n, o in enumerate(ordinals, start=1)]


# -- sized to the question -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "tokens"),
    [
        ("How many days of vacation do employees get?", 500),
        ("Wie hoch ist das Tagegeld?", 500),
        ("Compare the vacation of managers and engineers.", 1000),
        ("Why was the cold store warm?", 1000),
        ("Welche Unterlagen braucht ein Antrag?", 1000),
        ("What is the allowance? And who pays it?", 1000),
        ("为什么冷库变热了", 1000),
    ],
)
def test_a_question_that_asks_for_one_thing_gets_half_of_the_room(
    question: str, tokens: int
) -> None:
    assert room(question, 1000) == tokens


def test_the_best_hits_stay_and_the_first_three_always() -> None:
    found = hits(1, 5, 9, 13, 17)
    assert fitting(found, 10_000) == tuple(found)
    assert fitting(found, 450) == tuple(found[:4])
    assert fitting(found, 10) == tuple(found[:3])
    # Each part of a question keeps its passages.
    parts = [replace(hit, facet=Facet(1, "q")) for hit in found]
    assert fitting(parts, 10) == tuple(parts)


def test_neighbours_of_the_best_hits_come_first_as_sources_of_their_own() -> None:
    found = hits(5, 1)
    names = wanted(found)
    assert names == ["doc_a.1.4", "doc_a.1.6", "doc_a.1.0", "doc_a.1.2"]
    there = {name: chunk(int(name.rpartition(".")[2])) for name in names}
    read = surrounded(found, names, there, 450)
    assert [(p.marker, p.chunk.ordinal, p.beside) for p in read] == [
        ("1", 5, False),
        ("2", 1, False),
        ("3", 4, True),
        ("4", 6, True),
    ]
    # In the prompt they read on from each other, each with its own marker.
    text = answer_prompt("q", read).messages[0].text
    assert [text.index(f'id="{marker}"') for marker in "2314"] == sorted(
        text.index(f'id="{marker}"') for marker in "2314"
    )


def test_a_neighbour_that_is_a_hit_or_flagged_or_gone_is_not_added() -> None:
    found = hits(4, 5)
    names = wanted(found)
    assert names == ["doc_a.1.3", "doc_a.1.6"]
    there = {"doc_a.1.3": chunk(3, flags=("ignore_instructions",))}
    assert surrounded(found, names, there, 10_000) == tuple(found)


# -- completing a follow-up ----------------------------------------------------------------------


class Purse:
    """A budget that notes what was settled."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.settled: list[tuple[str, str, int]] = []

    @asynccontextmanager
    async def spend(
        self, *, estimate_micro_usd: int, stage: str, provider: str, model: str
    ) -> AsyncIterator[Spend]:
        if self.empty:
            raise BudgetExhausted("BUDGET_EXHAUSTED", "Empty.")
        spend = Spend(provider, model)
        try:
            yield spend
        finally:
            self.settled += [(stage, u.provider, u.cost_micro_usd) for u in spend.used]


def rewriting(*models: Scripted, empty: bool = False) -> tuple[Rewriting, Purse]:
    purse: Any = Purse(empty=empty)
    return Rewriting(LanguageModels(models, first_word_seconds=1), purse), purse


BEFORE = ["How many days of vacation do engineers get?", "What does the handbook say?"]


async def test_a_follow_up_is_completed_by_the_model_and_paid_as_a_stage_of_its_own() -> None:
    model = Scripted("anthropic", "How many days of vacation", " do managers get?\n")
    complete, purse = rewriting(model)
    found = await complete.complete("And managers?", BEFORE, seconds=5)
    assert found.text == "How many days of vacation do managers get?"
    assert [(u.stage, u.provider, u.cost_micro_usd) for u in found.usage] == [
        ("rewrite", "anthropic", 42)
    ]
    assert purse.settled == [("rewrite", "anthropic", 42)]
    [asked] = model.prompts[0].messages
    assert asked.role is Role.USER
    # In the order in which they were asked, the follow-up last.
    assert asked.text.index(BEFORE[1]) < asked.text.index(BEFORE[0]) < asked.text.index("managers?")


@pytest.mark.parametrize(
    ("question", "before"),
    [("And managers?", []), ("What is the daily allowance for meals abroad?", BEFORE)],
)
async def test_what_stands_by_itself_costs_nothing(question: str, before: list[str]) -> None:
    model = Scripted("anthropic", "never")
    complete, _ = rewriting(model)
    assert await complete.complete(question, before, seconds=5) == Completed(question)
    assert model.calls == 0


async def test_without_a_model_the_rules_do_it() -> None:
    complete, _ = rewriting()
    found = await complete.complete("And managers?", BEFORE, seconds=5)
    assert found.text.startswith("And managers? ")
    assert "vacation" in found.text
    assert (found.usage, found.degraded) == ((), ())


@pytest.mark.parametrize("steps", [[broken(Overloaded)], ["x" * 3000], ["  \n"]])
async def test_a_model_that_cannot_leaves_it_to_the_rules_and_it_is_said(steps: list[Any]) -> None:
    complete, _ = rewriting(Scripted("anthropic", *steps))
    found = await complete.complete("And managers?", BEFORE, seconds=5)
    assert "vacation" in found.text
    assert found.degraded == ("rewrite",)


async def test_without_money_there_is_no_rewriting_and_no_answer() -> None:
    complete, _ = rewriting(Scripted("anthropic", "x"), empty=True)
    with pytest.raises(BudgetExhausted):
        await complete.complete("And managers?", BEFORE, seconds=5)


def test_cheap_work_goes_to_the_cheapest_model_of_the_providers_there_are() -> None:
    known = replace(load(), catalogue=catalogue.load())
    named = ["gemini", "anthropic/claude-sonnet-5-5"]
    assert cheapest(named, known) == "anthropic/claude-haiku-5-5"
    assert cheapest(["gemini"], known) == "gemini/gemini-3.8-flash"
