"""An answer that another model goes on with: what stays, what is left out, what is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import citemesh
from citemesh.generation import v1
from meshkit.errors import MeshError, Unavailable
from meshkit.providers.errors import Overloaded, StreamTruncated
from meshkit.usage import Spend
from services.generation.abstractive import AbstractiveGenerator
from services.generation.answers import Delta, Draft, Retracted, Switched
from services.generation.failover import LanguageModels
from services.generation.language_model import Role
from services.generation.resuming import Continuation, sentences, whole_sentences
from services.generation.stopwatch import Stopwatch
from services.generation.telling import Telling
from tests.unit.test_generation_writing import HANDBOOK, TRAVEL, Quoting, Scripted, broken, passage


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is 26 days. [1] After five ye", "It is 26 days. [1]"),
        ("It is 26 days [1]. After five ye", "It is 26 days [1]."),
        ("It is 26 days. [1][3] Aft", "It is 26 days. [1][3]"),
        ("It is 26 days.", ""),
        ("26 days. After five years 30. [1]", "26 days. After five years 30. [1]"),
        ("Lunch: 28 euros [2]\nDinner", "Lunch: 28 euros [2]"),
        ("So says e.g. [1] which", ""),
        ("It is [1", ""),
        ("年假为二十六天。[1]五年后", "年假为二十六天。[1]"),
        ("", ""),
    ],
)
def test_what_stays_are_sentences_that_were_cited_to_their_end(text: str, kept: str) -> None:
    assert whole_sentences(text) == kept


PARTS = st.lists(
    st.sampled_from(["A b c", ". ", "[1]", " [2]", "Dr. ", "! ", "\n", "。", "x", " ", "e.g. "]),
    max_size=12,
)


@given(PARTS)
def test_sentences_together_are_the_text(parts: list[str]) -> None:
    assert "".join(sentences("".join(parts))) == "".join(parts)


@given(PARTS, st.data())
def test_how_a_continuation_is_cut_into_pieces_changes_nothing(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))

    def shown(pieces: list[str]) -> str:
        rest = Continuation("It is said. [1]")
        return "".join([*(rest.feed(piece) for piece in pieces), rest.close()]).strip()

    whole = shown([text])
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert shown(pieces) == whole


def test_a_model_that_begins_again_is_heard_from_what_is_new() -> None:
    rest = Continuation("Every employee has 26 days. [1]")
    text = "Every employee has 26 days [1]. After five years it is 30 days. [1]"
    shown = "".join([*(rest.feed(letter) for letter in text), rest.close()])
    assert shown == " After five years it is 30 days. [1]"


@pytest.mark.parametrize("said", ["DONE", "Done.", "It is 26 days. [1]", ""])
def test_a_model_that_has_nothing_to_add_adds_nothing(said: str) -> None:
    rest = Continuation("It is 26 days. [1]")
    assert (rest.feed(said) + rest.close()).strip() == ""


# -- told to the reader --------------------------------------------------------------------------


class Unfiltered:
    """A guardrail that lets everything through, piece by piece."""

    async def filtered(
        self, deltas: Callable[[], AsyncGenerator[str, None]], *, release: str, seconds: float
    ) -> AsyncGenerator[str, None]:
        async with aclosing(deltas()) as texts:
            async for text in texts:
                yield text


class Told:
    """Events of one answer, and what they leave a reader with."""

    def __init__(self) -> None:
        self.events: list[Delta | Retracted | Switched] = []
        self.text = ""
        self.draft: Draft | None = None
        self.error: MeshError | None = None

    def add(self, event: Delta | Retracted | Switched) -> None:
        self.events.append(event)
        match event:
            case Delta(text):
                self.text += text
            case Retracted(start, end, _, replacement):
                self.text = self.text[:start] + replacement + self.text[end:]
            case Switched(restarted=True):
                self.text = ""

    def kinds(self) -> list[str]:
        names = [type(event).__name__ for event in self.events]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


async def tell(
    models: Sequence[Scripted], *, keeps: bool = True, goes_on: bool = True, quotes: bool = False
) -> Told:
    generator = AbstractiveGenerator(
        LanguageModels(models, first_word_seconds=5),
        last_resort=Quoting() if quotes else None,
        source_tokens=3000,
        goes_on=goes_on,
    )
    guardrail: Any = Unfiltered()
    telling = Telling(generator, guardrail, release="stream", seconds=30, keeps=keeps)
    told = Told()
    try:
        async for event in telling.events(
            "How many days?",
            [passage("1", HANDBOOK), passage("2", TRAVEL)],
            max_tokens=100,
            watch=Stopwatch(30),
            spend=Spend("none", "none"),
        ):
            told.add(event)
    except MeshError as error:
        told.error = error
    told.draft = telling.draft
    if told.error is None:
        assert telling.text == told.text
    return told


FIRST = ("Every employee has 26 days [1]. ", "The daily allow")
BROKEN = broken(StreamTruncated)


async def test_the_next_model_goes_on_behind_the_whole_sentences() -> None:
    second = Scripted("anthropic", "The daily allowance is 28 euros. [2]")
    told = await tell([Scripted("gemini", *FIRST, BROKEN), second])
    assert told.kinds() == ["Delta", "Retracted", "Switched", "Delta"]
    assert told.text == "Every employee has 26 days [1]. The daily allowance is 28 euros. [2]"
    assert Switched("gemini", "anthropic", "PROVIDER_STREAM_TRUNCATED") in told.events
    # It read what stands, as its own words, behind the same sources.
    *before, said, asked = second.prompts[0].messages
    assert (said.role, said.text) == (Role.ASSISTANT, "Every employee has 26 days [1].")
    assert "Repeat nothing" in asked.text
    assert before[0].cached
    assert told.draft is not None
    assert told.draft.provider == "anthropic"
    assert [(quote.marker, quote.text) for quote in told.draft.quotes] == [
        ("1", "Every employee has 26 days of paid vacation."),
        ("2", "The daily allowance for meals is 28 euros."),
    ]


async def test_a_model_that_repeats_what_stands_is_not_shown_twice() -> None:
    again = Scripted("anthropic", "Every employee has 26 days. [1] The allowance is 28 euros. [2]")
    told = await tell([Scripted("gemini", *FIRST, BROKEN), again])
    assert told.text == "Every employee has 26 days [1]. The allowance is 28 euros. [2]"


async def test_an_answer_that_broke_off_behind_its_last_sentence_is_whole() -> None:
    told = await tell(
        [
            Scripted("gemini", "Every employee has 26 days. [1]", BROKEN),
            Scripted("anthropic", "DONE"),
        ]
    )
    assert told.text == "Every employee has 26 days. [1]"
    assert told.kinds() == ["Delta", "Switched"]


async def test_without_a_whole_sentence_it_starts_over() -> None:
    second = Scripted("anthropic", "You have 26 days. [1]")
    told = await tell([Scripted("gemini", "Every empl", BROKEN), second])
    assert told.kinds() == ["Delta", "Switched", "Delta"]
    assert Switched("gemini", "anthropic", "PROVIDER_STREAM_TRUNCATED", True) in told.events
    assert told.text == "You have 26 days. [1]"
    assert second.prompts[0].messages[-1].role is Role.USER
    assert len(second.prompts[0].messages) == 2


async def test_it_can_be_told_to_start_over_always() -> None:
    second = Scripted("anthropic", "You have 26 days. [1]")
    told = await tell([Scripted("gemini", *FIRST, BROKEN), second], keeps=False)
    assert told.text == "You have 26 days. [1]"
    assert told.kinds() == ["Delta", "Switched", "Delta"]


async def test_or_to_end_there_honestly() -> None:
    second = Scripted("anthropic", "never")
    told = await tell([Scripted("gemini", *FIRST, BROKEN), second], goes_on=False, quotes=True)
    assert isinstance(told.error, Unavailable)
    assert told.error.reason == "PROVIDER_UNAVAILABLE"
    assert told.kinds() == ["Delta"]
    assert second.calls == 0


async def test_two_models_may_break_off_one_after_the_other() -> None:
    told = await tell(
        [
            Scripted("gemini", *FIRST, BROKEN),
            Scripted("anthropic", "The allowance is 28 euros. [2] And th", broken(Overloaded)),
            Scripted("cohere", "Tickets are booked. [2]"),
        ]
    )
    assert told.text == (
        "Every employee has 26 days [1]. The allowance is 28 euros. [2] Tickets are booked. [2]"
    )


async def test_when_no_model_is_left_the_sources_are_quoted_instead() -> None:
    told = await tell([Scripted("gemini", *FIRST, BROKEN)], quotes=True)
    assert told.text == "Quoted. [1]"
    assert Switched("gemini", "local", "PROVIDER_STREAM_TRUNCATED", True) in told.events
    assert told.draft is not None
    assert told.draft.degraded == ("generation", "rerank")


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_reader_who_saw_nothing_is_told_nothing(keeps: bool) -> None:
    models = [Scripted("gemini", "[9]", BROKEN), Scripted("anthropic", "26 days. [1]")]
    told = await tell(models, keeps=keeps)
    assert told.kinds() == ["Delta"]
    assert told.text == "26 days. [1]"


def test_the_client_has_the_text_that_stands() -> None:
    transcript = citemesh.Transcript()
    switched = v1.ProviderSwitchedEvent(from_provider="a", to_provider="b", reason="PROVIDER_X")
    steps = [
        (v1.AnswerEvent(sources=v1.SourcesEvent()), ""),
        (v1.AnswerEvent(delta=v1.DeltaEvent(text="26 😀 days. [1] And")), "26 😀 days. [1] And"),
        (v1.AnswerEvent(retract=v1.RetractEvent(start=14, end=18)), "26 😀 days. [1]"),
        (v1.AnswerEvent(provider_switched=switched), "26 😀 days. [1]"),
        (v1.AnswerEvent(delta=v1.DeltaEvent(text=" More.")), "26 😀 days. [1] More."),
    ]
    for event, text in steps:
        assert transcript.add(event) == text
    assert transcript.switches == ["a -> b: PROVIDER_X"]
    switched.restarted = True
    assert transcript.add(v1.AnswerEvent(provider_switched=switched)) == ""
    assert transcript.add(v1.AnswerEvent(done=v1.DoneEvent(answer="Whole."))) == "Whole."
