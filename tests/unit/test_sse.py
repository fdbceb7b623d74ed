"""Server-sent events of a call: in order, with comments in silence, and an end in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway import sse
from meshkit.errors import MeshError, Unavailable

LONG = 60.0


class Call:
    """A call whose messages, and what ends it, come when a test says so."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Any] = asyncio.Queue()
        self.read_count = 0
        self.cancelled = False

    async def read(self) -> Any:
        found = await self.coming.get()
        if isinstance(found, BaseException):
            raise found
        self.read_count += 1
        return found

    def cancel(self) -> None:
        self.cancelled = True

    def satisfied(self) -> None:
        pass


class Request:
    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"state": {"request_id": "req_1"}}


async def opened(
    call: Call, *, silence: float = LONG, until: asyncio.Event | None = None
) -> tuple[AsyncIterator[bytes], Request]:
    request: Any = Request()
    found = await sse.events(
        call,
        lambda message: message,
        request=request,
        keep_alive_seconds=silence,
        until=until or asyncio.Event(),
    )
    return found, request


async def test_messages_come_in_order_until_the_end() -> None:
    call = Call()
    for message in (b"1", b"2", b"3", grpc.aio.EOF):
        call.coming.put_nowait(message)
    events, _ = await opened(call)
    assert [event async for event in events] == [b"1", b"2", b"3"]


async def test_no_more_than_the_next_message_is_read_ahead() -> None:
    call = Call()
    for _ in range(10):
        call.coming.put_nowait(b"x")
    events, _ = await opened(call)
    for _ in range(3):
        await anext(events)
    for _ in range(20):
        await asyncio.sleep(0)
    assert call.read_count <= 4
    await events.aclose()  # type: ignore[attr-defined]
    assert call.cancelled


async def test_silence_is_filled_with_comments() -> None:
    call = Call()
    call.coming.put_nowait(b"1")
    events, _ = await opened(call, silence=0.01)
    assert await anext(events) == b"1"
    assert [await anext(events) for _ in range(2)] == [sse.KEEP_ALIVE] * 2
    call.coming.put_nowait(grpc.aio.EOF)
    assert {event async for event in events} <= {sse.KEEP_ALIVE}


@pytest.mark.parametrize("before", [[], [b"2"]])
async def test_an_error_comes_behind_what_came_before_it(before: list[bytes]) -> None:
    call = Call()
    for message in (b"1", *before, Unavailable("SERVICE_UNAVAILABLE", "Gone.")):
        call.coming.put_nowait(message)
    events, request = await opened(call)
    found = [event async for event in events]
    assert found[:-1] == [b"1", *before]
    assert b"SERVICE_UNAVAILABLE" in found[-1]
    assert isinstance(request.scope["state"]["error"], MeshError)


async def test_a_process_that_stops_ends_the_stream() -> None:
    call, until = Call(), asyncio.Event()
    call.coming.put_nowait(b"1")
    events, _ = await opened(call, until=until)
    assert await anext(events) == b"1"
    until.set()
    assert [event async for event in events] == []
    assert call.cancelled


async def test_a_call_that_is_cancelled_here_does_not_leave_its_reader_waiting() -> None:
    call = Call()
    for message in (b"1", asyncio.CancelledError()):
        call.coming.put_nowait(message)
    events, _ = await opened(call)
    assert await anext(events) == b"1"
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await anext(events)
