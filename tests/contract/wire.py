"""A way to a server that can be cut, and mended, while others use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Wire:
    """A way to a server; `cut` ends what is under way and takes nothing new until `mend`."""

    port: int = 0
    after: int | None = None
    """Bytes of answers it lets through before it cuts itself; None for all."""
    whole: bool = True
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        self.whole = False
        for writer in self._open:
            # CPython forgets the loop of a transport that closed by itself after a late write.
            with suppress(AttributeError):
                writer.transport.abort()

    def mend(self) -> None:
        self.whole, self.after = True, None


@asynccontextmanager
async def wire_to(connect: Callable[[], Awaitable[Streams]]) -> AsyncIterator[Wire]:
    """A wire to the server that `connect` reaches, on a port of its own."""
    wire = Wire()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if answers and wire.after is not None:
                    wire.after -= len(data)
                    if wire.after < 0:
                        wire.cut()
                        return
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not wire.whole:
            writer.transport.abort()
            return
        there, back = await connect()
        wire._open |= {writer, back}
        if not wire.whole:
            wire.cut()
        for task in (pump(reader, back, False), pump(there, writer, True)):
            running = asyncio.create_task(task)
            tasks.add(running)
            running.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire.port = listener.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        listener.close()
        wire.cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
