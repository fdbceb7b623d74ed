"""Server-sent events of a model's stream, as many at once as have arrived.

An SDK's own reader makes objects of several layers out of every event, and a model sends one
for every few tokens: of what writing an answer costs here that was the largest part. These
are read from the SDK's response instead, all that came with one read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from services.generation.language_model import Finished
from services.generation.rhythm import Rhythm

DRAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: str


async def arrivals(chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[Event], None]:
    """The events that each read completes, as far as it completes any.

    Args:
        chunks: The body as it is read.
    """
    rest = b""
    async for chunk in chunks:
        rest = _unix_lines(rest + chunk)
        *blocks, rest = rest.split(b"\n\n")
        if events := [event for block in blocks if (event := _event(block))]:
            yield events


def _unix_lines(text: bytes) -> bytes:
    """The three line ends that the format knows as one; a last CR may still get its LF."""
    if b"\r" not in text:
        return text
    end = b"\r" if text.endswith(b"\r") else b""
    return text.removesuffix(end).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + end


def _event(block: bytes) -> Event | None:
    name, data = "", []
    for line in block.decode().split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return Event(name, "\n".join(data)) if data else None


class Message(Protocol):
    """What the events of one API come to."""

    said: list[str]
    """Text that was not passed on yet."""
    finished: Finished | None
    """Set by the closing event."""

    def take(self, event: Event) -> None:
        """Reads the next event; whatever it raises is for the model to classify."""
        ...


async def read(
    chunks: AsyncIterator[bytes], message: Message, rhythm: Rhythm
) -> AsyncGenerator[str | Finished, None]:
    """The text of a message in as many pieces as there are reads, and its end if it has one.

    The first text leaves at once, the next one is read when it is due; meanwhile what comes
    gathers in the socket, and one read takes all of it. Text that came before a failure, or
    before the end, leaves before that is told.
    """
    loop = asyncio.get_running_loop()
    async with aclosing(arrivals(chunks)) as groups:
        async for events in groups:
            failure: Exception | None = None
            for event in events:
                try:
                    message.take(event)
                except Exception as error:  # noqa: BLE001 - raised below, behind the text
                    failure = error
                    break
            left, said = loop.time(), "".join(message.said)
            message.said.clear()
            if said:
                yield said
            if failure is not None:
                raise failure
            if message.finished is not None:
                yield message.finished
                await drain(groups)
                return
            if said:
                await rhythm.pause(left)


async def drain(rest: AsyncIterator[Any]) -> None:
    """Reads what is left of a stream behind its closing event, which has no meaning any more.

    A response that was not read to its end takes its connection with it, and the next call would
    have to make another one.
    """
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in rest:
                pass
