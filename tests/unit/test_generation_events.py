"""A model's stream as it is read: whole events, as many at once as have come, in a rhythm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.language_model import Finish, Finished, Spent
from services.generation.models.events import Event, Parser, read
from services.generation.rhythm import Rhythm

END = Finished(Finish.STOP, Spent(0, 0, 0))


async def reads(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk


def events_of(chunks: Sequence[bytes]) -> list[list[Event]]:
    parser = Parser()
    return [parser.feed(chunk) for chunk in chunks]


class Said:
    """Events that are text, but for `end` and what is no JSON."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.finished: Finished | None = None

    def take(self, event: Event) -> None:
        if event.name == "end":
            self.finished = END
        else:
            self.said.append(json.loads(event.data))


def text(*words: str) -> bytes:
    return "".join(f'event: text\ndata: "{word}"\n\n' for word in words).encode()


@given(
    names=st.lists(st.sampled_from(["a", "größe", "", "b: c"]), min_size=1, max_size=5),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.integers(1, 40),
)
def test_events_are_the_same_however_the_body_is_cut(
    names: list[str], line_end: str, size: int
) -> None:
    body = "".join(
        f": a comment{line_end}event:{name}{line_end}data: x{line_end}data: {name}{line_end * 2}"
        for name in names
    ).encode()
    # A CR at the very end could still be half of a line end.
    body += b": more"
    groups = events_of([body[at : at + size] for at in range(0, len(body), size)])
    assert [event for group in groups for event in group] == [
        Event(name, f"x\n{name}") for name in names
    ]


async def test_all_that_has_come_is_one_piece_in_however_many_chunks() -> None:
    steps = read(reads(*(text(word) for word in "abcdefgh")), Said(), Rhythm(shortest=60.0))
    assert await anext(steps) == "abcdefgh"
    await steps.aclose()


async def test_the_first_text_leaves_at_once_and_the_next_is_read_when_it_is_due() -> None:
    more, taken = asyncio.Event(), []

    async def body() -> AsyncGenerator[bytes, None]:
        yield text("a")
        await more.wait()
        for chunk in (text("b"), text("c"), b"event: end\ndata: 1\n\n"):
            taken.append(chunk)
            yield chunk

    steps = read(body(), Said(), Rhythm(shortest=0.1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await anext(steps) == "a"
    more.set()
    upcoming = asyncio.ensure_future(anext(steps))
    while not taken:
        await asyncio.sleep(0)
    assert len(taken) == 1
    assert await upcoming == "bc"
    assert loop.time() - began >= 0.1
    assert [step async for step in steps] == [END]


async def test_text_that_came_before_a_failure_is_told_before_it() -> None:
    steps = read(reads(text("a", "b") + b"data: {\n\n"), Said(), Rhythm())
    assert await anext(steps) == "ab"
    with pytest.raises(json.JSONDecodeError):
        await anext(steps)


async def test_a_body_that_ends_without_its_closing_event_has_no_end() -> None:
    steps = read(reads(text("a"), text("b")[:-1]), Said(), Rhythm())
    assert [step async for step in steps] == ["a"]


async def test_a_body_that_breaks_off_is_told_behind_what_came_before() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield text("a")
        raise ConnectionResetError

    steps = read(body(), Said(), Rhythm())
    assert await anext(steps) == "a"
    with pytest.raises(ConnectionResetError):
        await anext(steps)


async def test_who_stops_reading_closes_what_is_read() -> None:
    closed = asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            yield text("a")
            await asyncio.Event().wait()
        finally:
            closed.set()

    steps = read(body(), Said(), Rhythm())
    assert await anext(steps) == "a"
    await steps.aclose()
    assert closed.is_set()


async def test_what_is_left_behind_the_closing_event_is_read() -> None:
    whole = asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"event: end\ndata: 1\n\n"
        await asyncio.sleep(0.02)
        yield text("ignored")
        whole.set()

    assert [step async for step in read(body(), Said(), Rhythm())] == [END]
    assert whole.is_set()
