"""A TCP proxy between two parts of the mesh, whose line can be slow or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

PIECE = 65_536


class Line:
    """What lies between the callers of a service and the service.

    Args:
        target: Port of the service, asked for at each connection: it is known late.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.delay_seconds = 0.0
        """Of every piece, in each direction."""
        self.port = 0

    async def listen(self) -> None:
        """Opens the port that callers are told."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends every connection."""
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncIterator[None]:
        """Inside the block every piece takes so long."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Inside the block nothing arrives, and nobody is told: a partition."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._open.wait()
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self._target())
                try:
                    await self._both_ways((reader, back), (there, writer))
                finally:
                    back.close()
        finally:
            writer.close()
            self._connections.discard(task)

    async def _both_ways(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Until one side has ended: a connection of gRPC is never closed by half."""
        pumps = [asyncio.create_task(self._pump(*way)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(PIECE):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._open.wait()
                target.write(piece)
                await target.drain()
