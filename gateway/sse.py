"""Server-sent events over a stream of the mesh.

The first message is awaited before the response starts, so that an error that
comes instead of it still has a status of its own. A client that goes away
cancels the call behind the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from gateway.problem import request_id_of
from meshkit.errors import Cancelled, MeshError

KEEP_ALIVE = b": keep-alive\n\n"


def event(name: str, data: Any) -> bytes:
    """One event; `data` becomes JSON, which has no line break of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data, inf_nan_mode="null"))


def ended_by(request: Request, error: MeshError) -> None:
    """Notes the error that ended a response whose status was sent already."""
    request.scope["state"]["error"] = error


def complete(request: Request) -> None:
    """Notes that the client was sent everything: going away now is no breaking off."""
    request.scope["state"]["complete"] = True


def _is_complete(request: Request) -> bool:
    return bool(request.scope["state"].get("complete"))


class ClosingStream(StreamingResponse):
    """A stream whose source is closed when the client goes, not when it is collected."""

    async def stream_response(self, send: Send) -> None:
        """Sends the body and closes its source."""
        try:
            await super().stream_response(send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                await close()


class EventStream(ClosingStream):
    """The response that carries events."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        # Proxies must neither hold events back nor change them.
        headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(source, headers=headers)


async def events(
    call: Any,
    to_event: Callable[[Any], bytes],
    *,
    request: Request,
    keep_alive_seconds: float,
    until: asyncio.Event,
) -> AsyncIterator[bytes]:
    """The messages of a call as events; the first one is waited for here.

    How the stream ends is noted for the request's span and its line in the access log: its
    status was sent long before.

    Args:
        call: A stream of the mesh; it is cancelled when the events end early.
        to_event: Turns a message into an event.
        request: What is answered.
        keep_alive_seconds: Silence after which a comment is sent.
        until: Ends the stream when set, because the process is about to stop.

    Raises:
        MeshError: what the call answered instead of a first message.
    """
    try:
        first = await call.read()
    except BaseException:
        call.cancel()
        raise
    return _rest(call, first, to_event, request, keep_alive_seconds, until)


async def _rest(
    call: Any,
    message: Any,
    to_event: Callable[[Any], bytes],
    request: Request,
    keep_alive_seconds: float,
    until: asyncio.Event,
) -> AsyncIterator[bytes]:
    end = asyncio.ensure_future(until.wait())
    reading: asyncio.Future[Any] | None = None
    try:
        while message is not grpc.aio.EOF:
            shown = to_event(message)
            if _is_complete(request):
                call.satisfied()
            yield shown
            reading = asyncio.ensure_future(call.read())
            while not reading.done():
                await asyncio.wait(
                    {reading, end},
                    timeout=keep_alive_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if end.done() and not reading.done():
                    return
                if not reading.done():
                    yield KEEP_ALIVE
            message = reading.result()
    except MeshError as error:
        ended_by(request, error)
        identity = request_id_of(request)
        failure = {"reason": error.reason, "detail": error.detail, "request_id": identity}
        yield event("error", failure)
    except (asyncio.CancelledError, GeneratorExit):
        # Who has read the last event may hang up before the stream has ended.
        if not _is_complete(request):
            ended_by(request, Cancelled("CLIENT_GONE", "The client went away."))
        raise
    finally:
        end.cancel()
        call.cancel()
        if reading is not None and not reading.done():
            reading.cancel()
            with suppress(asyncio.CancelledError, MeshError):
                await reading
