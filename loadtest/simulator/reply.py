"""How an answer goes over the wire: whole or in pieces, in its pace, and broken where asked."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from loadtest.simulator.faults import Fault, FaultKind
from loadtest.simulator.world import Record, World

TRANSPORT = "loadtest.transport"
"""Where `protocol.Protocol` leaves the connection in a request's scope."""


@dataclass(frozen=True, slots=True)
class Body:
    """An answer in one piece."""

    status: int
    content: Any
    """Turned into JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Events:
    """An answer as server-sent events."""

    opening: Sequence[bytes]
    text: Sequence[bytes]
    """One frame a piece of text."""
    closing: Sequence[bytes]
    broken: bytes
    """A frame that is no JSON."""
    failure: Callable[[FaultKind], bytes]
    """The frame with which the provider ends a stream that failed."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Reply:
    """The ASGI application that sends one answer."""

    def __init__(
        self, world: World, record: Record, answer: Body | Events, fault: Fault | None
    ) -> None:
        self._world = world
        self._record = record
        self._answer = answer
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until it is done or the client goes away, whichever comes first."""
        sending = asyncio.create_task(self._send(scope, send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                self._record.end("answered" if sending.result() else "broken")
            else:
                self._record.end("abandoned")
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            self._record.end("broken")

    async def _send(self, scope: Scope, send: Send) -> bool:
        """Sends the answer; False when a fault broke it off."""
        fault = self._fault
        pace = self._world.pace[self._record.call.operation]
        await asyncio.sleep(pace.delay(self._world.chance))
        if fault is not None and fault.after == 0 and fault.kind is FaultKind.HANG:
            await asyncio.sleep(fault.seconds)
            abort(scope)
            return False
        if fault is not None and fault.after == 0 and fault.kind is FaultKind.RESET:
            abort(scope)
            return False
        if isinstance(self._answer, Body):
            return await self._whole(scope, send, self._answer)
        return await self._stream(scope, send, self._answer)

    async def _whole(self, scope: Scope, send: Send, answer: Body) -> bool:
        data = json.dumps(answer.content).encode()
        await _start(send, answer.status, "application/json", len(data), answer.headers)
        kind = self._fault.kind if self._fault else None
        if kind is FaultKind.MALFORMED:
            data = b"{" + data[1:-1].replace(b'"', b"'") + b" "
        if kind is FaultKind.TRUNCATED:
            await _frame(send, data[: len(data) // 2])
            close(scope)
            return False
        if kind is FaultKind.SLOW_DRIP and self._fault is not None:
            for byte in data[:-1]:
                await _frame(send, bytes([byte]))
                await asyncio.sleep(self._fault.seconds)
            data = data[-1:]
        await send({"type": "http.response.body", "body": data})
        return kind is not FaultKind.MALFORMED

    async def _stream(self, scope: Scope, send: Send, answer: Events) -> bool:
        fault = self._fault
        await _start(send, 200, "text/event-stream", None, answer.headers)
        pace = self._world.pace["generate"]
        for frame in answer.opening:
            await _frame(send, frame)
        for number, frame in enumerate(answer.text):
            if (
                fault is not None
                and number >= fault.after
                and fault.kind is not FaultKind.SLOW_DRIP
            ):
                break
            await _frame(send, frame)
            gap = pace.gap(self._world.chance)
            if fault is not None and fault.kind is FaultKind.SLOW_DRIP and number >= fault.after:
                gap = fault.seconds
            # Without a rate, too, another connection gets its turn.
            await asyncio.sleep(gap)
        if fault is not None and fault.kind is not FaultKind.SLOW_DRIP:
            if await self._break(scope, send, answer, fault):
                return False
            for frame in answer.text[fault.after :]:
                await _frame(send, frame)
        for frame in answer.closing:
            await _frame(send, frame)
        await send({"type": "http.response.body", "body": b""})
        return True

    async def _break(self, scope: Scope, send: Send, answer: Events, fault: Fault) -> bool:
        """Does what the fault says; False when the stream goes on after it."""
        match fault.kind:
            case FaultKind.RESET:
                abort(scope)
            case FaultKind.HANG:
                await asyncio.sleep(fault.seconds)
                abort(scope)
            case FaultKind.TRUNCATED:
                # Ended in order as far as HTTP goes: only the closing event is missing.
                await send({"type": "http.response.body", "body": b""})
            case FaultKind.MALFORMED:
                await _frame(send, answer.broken)
                return False
            case _:
                await _frame(send, answer.failure(fault.kind))
                await send({"type": "http.response.body", "body": b""})
        return True


async def _start(
    send: Send, status: int, media: str, length: int | None, headers: Mapping[str, str]
) -> None:
    raw = [(b"content-type", media.encode())]
    if length is not None:
        raw.append((b"content-length", str(length).encode()))
    raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _frame(send: Send, frame: bytes) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def abort(scope: Scope) -> None:
    """Resets the connection: the client sees an RST, not an end."""
    transport: asyncio.Transport = scope[TRANSPORT]
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def close(scope: Scope) -> None:
    """Closes the connection in the middle of a body."""
    transport: asyncio.Transport = scope[TRANSPORT]
    transport.close()


def data_frame(content: Any, event: str = "") -> bytes:
    """A server-sent event with JSON in it."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
