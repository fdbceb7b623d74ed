"""Server-sent events of a model's stream, as many at once as have arrived.

An SDK's own reader makes objects of several layers out of every event, and a model sends one
for every few tokens: of what writing an answer costs here that was the largest part. These
are read from the SDK's response instead, all that came with one read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from services.generation.language_model import Finished
from services.generation.rhythm import Rhythm

DRAIN_SECONDS = 0.2
TURNS = 6
"""Of the event loop, in which all that has come is read: what the parser of HTTP still has, then
what the socket has."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: str


class Parser:
    """Cuts a body into events, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that the next piece completes."""
        *blocks, self._rest = _unix_lines(self._rest + piece).split(b"\n\n")
        return [event for block in blocks if (event := _event(block))]


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
    """The text of a message in few pieces, and its end if it has one.

    The first text leaves at once, the next one is read when it is due; meanwhile what comes
    gathers in the socket. Text that came before a failure, or before the end, leaves before
    that is told.
    """
    loop, parser = asyncio.get_running_loop(), Parser()
    async with _reading(chunks) as reader:
        while piece := await reader.next():
            failure: Exception | None = None
            for event in parser.feed(piece):
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
                await reader.drain()
                return
            if said:
                await rhythm.pause(left)


class _Reader:
    """Reads a body by a task of its own, but only when it is wanted.

    A body comes in as many chunks as the provider wrote, all of them out of one read of the
    socket: it is the task that goes through them, without a wait.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._wanted, self._came = asyncio.Event(), asyncio.Event()
        self._pieces: list[bytes] = []
        self.task = asyncio.create_task(self._read(chunks))

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                self._pieces.append(chunk)
                self._came.set()
                await self._wanted.wait()
        finally:
            self._came.set()

    async def next(self) -> bytes:
        """All that has come since, at least something; nothing at the end.

        Raises:
            Exception: what ended the body too early, behind all that came before it.
        """
        self._wanted.set()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await self._came.wait()
        if not self._pieces:
            await self.task
        if not self.task.done():
            self._came.clear()
        self._wanted.clear()
        piece = b"".join(self._pieces)
        self._pieces.clear()
        return piece

    async def drain(self) -> None:
        """Reads what is left behind the closing event, which has no meaning any more.

        A response that was not read to its end takes its connection with it, and the next call
        would have to make another one.
        """
        self._wanted.set()
        await asyncio.wait({self.task}, timeout=DRAIN_SECONDS)


@asynccontextmanager
async def _reading(chunks: AsyncIterator[bytes]) -> AsyncIterator[_Reader]:
    reader = _Reader(chunks)
    try:
        yield reader
    finally:
        reader.task.cancel()
        await asyncio.gather(reader.task, return_exceptions=True)
