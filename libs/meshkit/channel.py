"""The way to call another service: one channel factory, one retry policy.

A channel made here behaves as every hop of the mesh must: it carries the signed
context and the trace, keeps the call within the deadline of the request being
served, records a span and a duration, and raises the mesh's own errors. It
spreads calls over all healthy replicas, and it retries only what never reached
a handler: a server of the mesh forbids retries of its own answers by push-back,
so that only the hop next to a failure retries.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from opentelemetry.trace import Span, SpanKind

from meshkit import clock, context, deadline
from meshkit.errors import (
    Cancelled,
    DeadlineExceeded,
    MeshError,
    Unavailable,
    from_rpc_error,
)
from meshkit.telemetry import tracing
from meshkit.telemetry.metrics import client_duration
from meshkit.tls import Tls

CONTEXT_HEADER = "x-citemesh-context"
REQUEST_HEADER = "x-citemesh-request"
"""The request's id, beside a context that is signed for more than one request."""
RESPONSE_BYTES = 64 * 1024 * 1024
"""Largest message of an answer that is taken."""
DEFAULT_TIMEOUT_SECONDS = 10.0
"""For calls that name no timeout, so that none waits for ever."""
CLOCKS_SECONDS = 5.0
"""When to come back to two processes that do not agree about the time."""


def service_config(grpc_service: str) -> str:
    """Retries, their throttle, balancing and health checks, as gRPC's JSON."""
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": grpc_service},
            "methodConfig": [{"name": [{"service": grpc_service}], "retryPolicy": retry}],
            "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
        }
    )


def options(grpc_service: str) -> list[tuple[str, Any]]:
    """Channel arguments; each is here because its default failed somebody."""
    return [
        # A proxy variable in the environment would break calls on loopback.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", service_config(grpc_service)),
        ("grpc.enable_retries", 1),
        # A service that comes back is found within half a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name the time a connection attempt may take: at 100 ms the greeting of a
        # server on a busy machine comes too late, and its callers get UNAVAILABLE.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A hundred hits with their neighbours are more than the 4 MiB that gRPC takes,
        # and would look like a service at its limit.
        ("grpc.max_receive_message_length", RESPONSE_BYTES),
    ]


class _Call:
    """What one call needs before it starts and says when it has ended."""

    __slots__ = ("_context", "_method", "_span", "_started", "metadata", "timeout")

    def __init__(self, method: str, timeout: float | None, metadata: Any) -> None:
        self._method = method
        self.timeout = deadline.for_call(DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout)
        service, _, name = method.lstrip("/").partition("/")
        self._span: Span | None = tracing.start(
            method.lstrip("/"),
            SpanKind.CLIENT,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        self._started = time.perf_counter()
        self.metadata: list[tuple[str, str]] = list(metadata or ())
        self.metadata += tracing.propagation_of(self._span)
        self._context = request = context.peek()
        if request is not None:
            self.metadata.append((CONTEXT_HEADER, request.token))
            self.metadata.append((REQUEST_HEADER, request.request_id))

    @property
    def out_of_time(self) -> bool:
        """Whether the call's timeout has passed, but for a margin."""
        left = self.timeout
        return left is not None and self.seconds >= left - deadline.MARGIN_SECONDS

    @property
    def context_holds(self) -> bool:
        """Whether the signed context of the call has not expired by this process's clock."""
        return self._context is not None and clock.now() < self._context.expires_at

    @property
    def seconds(self) -> float:
        """Since the call began."""
        return time.perf_counter() - self._started

    def event(self, name: str) -> None:
        """Notes a moment of the call on its span."""
        if self._span is not None:
            self._span.add_event(name)

    def end(self, error: BaseException | None = None) -> None:
        """Ends span and clock; the second time does nothing."""
        span, self._span = self._span, None
        if span is None:
            return
        code = "OK"
        if error is not None:
            tracing.record(span, error)
            code = error.code.name if isinstance(error, MeshError) else "CANCELLED"
        span.set_attribute("rpc.grpc.status", code)
        span.end()
        client_duration.record(self.seconds, {"rpc.method": self._method, "rpc.status": code})


def _typed(error: grpc.aio.AioRpcError, call: _Call) -> MeshError:
    typed = from_rpc_error(error)
    # The server's own clock may end the call a moment before ours does.
    if isinstance(typed, Cancelled) and call.out_of_time:
        return DeadlineExceeded("DEADLINE_EXCEEDED", "The time given was not enough.")
    if typed.reason in ("CONTEXT_EXPIRED", "CONTEXT_EARLY") and call.context_holds:
        return Unavailable(
            "CLOCKS_DISAGREE",
            "Two processes of the mesh differ by more than half a minute about the time; try again"
            " when their machines' clocks are right.",
            retry_after=CLOCKS_SECONDS,
        )
    return typed


WRITE_FAILED = "Internal error from Core"
"""What gRPC calls the end of a call whose server had ended it before all was written."""

T = TypeVar("T")


class _Ending:
    """How the server ended a call, whatever gRPC makes of a write that came too late.

    A server may refuse an upload in its middle. The next write fails then, and gRPC puts
    INTERNAL in the place of the status, before that is read or after (grpc#36066). Every
    status passes through the callback, so the server's own is kept here; it always comes,
    because every call has a deadline.
    """

    def __init__(self, call: Any) -> None:
        self._server: asyncio.Future[grpc.aio.AioRpcError | None] = (
            asyncio.get_running_loop().create_future()
        )
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if self._server.done() or (code, details) == (grpc.StatusCode.INTERNAL, WRITE_FAILED):
            return
        error = None
        if code is not grpc.StatusCode.OK:
            trailing = _at_once(call.trailing_metadata())
            error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)
        self._server.set_result(error)

    async def error(self) -> grpc.aio.AioRpcError | None:
        """What the server ended the call with, once it has; None for OK."""
        return await asyncio.shield(self._server)

    async def instead_of(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's own error where gRPC has raised that a write failed."""
        if raised.details() != WRITE_FAILED:
            return raised
        # An OK would promise that the server took what could not be written.
        return await self.error() or raised


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for: the status of an ended call."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        found: T = end.value
        return found
    raise AssertionError("the call has not ended")


class _Stream:
    """A streaming call: iterate it, write to it, cancel it; errors are the mesh's."""

    def __init__(self, call: Any, record: _Call) -> None:
        self._call = call
        self._ending = _Ending(call)
        self._record = record
        self._first = True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            typed = _typed(await self._ending.instead_of(error), self._record)
            self._record.end(typed)
            raise typed from None
        except asyncio.CancelledError as error:
            self._call.cancel()
            self._record.end(error)
            raise
        if message is grpc.aio.EOF:
            await self._finish()
        elif self._first:
            self._first = False
            self._record.event("first_message")
        return message

    async def _finish(self) -> None:
        error = await self._ending.error()
        if error is not None:
            typed = _typed(error, self._record)
            self._record.end(typed)
            raise typed
        self._record.end()

    async def write(self, message: Any) -> None:
        """Sends a message; when the call has failed, raises why."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._finish()
            raise

    async def done_writing(self) -> None:
        """Tells the server that no more messages come."""
        await self._call.done_writing()

    def satisfied(self) -> None:
        """Notes that the last message which was wanted has come: the call has succeeded.

        Who reads no further does not break it off.
        """
        self._record.end()

    def cancel(self) -> bool:
        """Cancels the call unless it has ended."""
        self._record.end(asyncio.CancelledError())
        return bool(self._call.cancel())


@asynccontextmanager
async def streaming(call: Any) -> AsyncIterator[Any]:
    """The stream of a call, cancelled when the block is left before its end.

    Leaving an `async for` alone would let the server stream on.
    """
    try:
        yield call
    finally:
        call.cancel()


class _Unary:
    """Calls whose response is one message; `writes` says that the request is a stream."""

    def __init__(self, callable_: Any, method: str, *, writes: bool = False) -> None:
        self._callable = callable_
        self._method = method
        self._writes = writes

    async def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # gRPC's own name and meaning
        metadata: Any = None,
    ) -> Any:
        call = _Call(self._method, timeout, metadata)
        ending = None
        try:
            rpc = self._callable(request, timeout=call.timeout, metadata=call.metadata)
            ending = _Ending(rpc) if self._writes else None
            response = await rpc
        except grpc.aio.AioRpcError as error:
            typed = _typed(await ending.instead_of(error) if ending else error, call)
            call.end(typed)
            raise typed from None
        except BaseException as error:
            call.end(error)
            raise
        call.end()
        return response


class _Streaming:
    """Calls whose response is a stream."""

    def __init__(self, callable_: Any, method: str) -> None:
        self._callable = callable_
        self._method = method

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
    ) -> _Stream:
        call = _Call(self._method, timeout, metadata)
        rpc = self._callable(request, timeout=call.timeout, metadata=call.metadata)
        return _Stream(rpc, call)


class MeshChannel(grpc.aio.Channel):
    """A `grpc.aio.Channel` whose calls follow the rules of the mesh; see above.

    Unary calls are awaited; streams are used with `streaming`.
    """

    def __init__(
        self, target: str, grpc_service: str, tls: Tls | None = None, *, host: str = ""
    ) -> None:
        """Dials.

        Args:
            target: gRPC's name for it, such as `dns:///retrieval:50051`.
            grpc_service: Full name of the service, for health checks.
            tls: Certificate and authorities; None speaks in plain text.
            host: Name in the server's certificate, where `target` is an address.
        """
        arguments = options(grpc_service)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=arguments)
            return
        if host:
            arguments.append(("grpc.ssl_target_name_override", host))
        self._channel = grpc.aio.secure_channel(target, tls.channel(), options=arguments)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable for a unary RPC."""
        return _Unary(self._channel.unary_unary(method, *args, **kwargs), method)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable that takes an async iterator of requests."""
        return _Unary(self._channel.stream_unary(method, *args, **kwargs), method, writes=True)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable whose result is a stream."""
        return _Streaming(self._channel.unary_stream(method, *args, **kwargs), method)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A callable whose result is a stream that can be written to."""
        return _Streaming(self._channel.stream_stream(method, *args, **kwargs), method)

    async def close(self, grace: float | None = None) -> None:
        """Closes the connections."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state differs."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until a replica that is SERVING is connected."""
        await self._channel.channel_ready()

    async def __aenter__(self) -> MeshChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
