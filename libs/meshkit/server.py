"""Serving calls: what happens around every RPC of every service, in this order.

    errors      every exception becomes a status with a reason, none leaks its text
    context     the signed context is verified and made current
    deadline    the caller's deadline becomes the budget of the request
    telemetry   a span, a duration and an access log line, for streams too
    admission   no more at once than are served in time; see `meshkit.admission`
    validation  the request obeys the rules written in the contract

They are written out in `Pipeline._serve`, outermost first: a search of a few
milliseconds passes through them in every service, and a stack of context managers
cost more than what they do. Health and reflection are served without them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import protovalidate
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry.metrics import CallbackOptions, Observation

from meshkit import access_log, context, deadline
from meshkit.admission import CallAdmission, Place
from meshkit.channel import CONTEXT_HEADER, REQUEST_HEADER
from meshkit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    Unauthenticated,
    to_status,
)
from meshkit.identity import Verifier
from meshkit.ids import is_request_id
from meshkit.logging import logger
from meshkit.settings import ServiceSettings
from meshkit.telemetry import tracing
from meshkit.telemetry.metrics import observed, server_duration
from meshkit.tls import Tls

log = logger(__name__)

NO_RETRY = ("grpc-retry-pushback-ms", "-1")
"""Tells the caller's gRPC that this answer was meant: it must not call again."""

METADATA_BYTES = 512 * 1024
"""Largest headers of a call: room for a context with 256 principals of 256 characters."""

FLOOD = 1_000
"""Calls that may wait to be turned away."""

FAREWELL_SECONDS = 0.2
"""For the last words on open connections: NOT_SERVING to watchers, GOAWAY to all."""


T = TypeVar("T")


def typed(error: Exception) -> MeshError:
    """The error a caller may see for any exception; ours pass unchanged."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("DEADLINE_EXCEEDED", "The time given was not enough.")
    log.error("unexpected error", exc_info=error)
    return Internal("INTERNAL", "The mesh failed to handle this; its log has the request id.")


def _with_push_back(status: Any) -> Any:
    found: Any = rpc_status.to_status(status)
    return found._replace(trailing_metadata=(*found.trailing_metadata, NO_RETRY))


def caller_of(verifier: Verifier, headers: Mapping[str, str]) -> context.RequestContext:
    """Who calls, by the signed context; which request it is, by its own header.

    The signature says who and what for. It is used for many requests, so the name of
    this one comes beside it; a caller could choose that name at the gateway, too.

    Raises:
        Unauthenticated: without a valid signed context.
    """
    token = headers.get(CONTEXT_HEADER)
    if not token:
        raise Unauthenticated("CONTEXT_MISSING", "The call carries no signed context.")
    caller = verifier.verify(token)
    named = headers.get(REQUEST_HEADER, "")
    return replace(caller, request_id=named) if is_request_id(named) else caller


class Served:
    """What is noted of a call while it is served."""

    __slots__ = ("first_ms", "messages", "started")

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.messages = 0
        """Messages of a stream that were sent."""
        self.first_ms = 0.0
        """When the first of them was."""

    def sent(self) -> None:
        """A message of a stream was sent."""
        self.messages += 1
        if self.messages == 1:
            self.first_ms = round((time.perf_counter() - self.started) * 1000, 2)
            tracing.event("first_message")


_active: Counter[str] = Counter()
"""Calls being served, by method; one of a method that was ever called."""


def _observe_active(_options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(count, {"rpc.method": method}) for method, count in _active.items()]


observed("rpc.server.active", _observe_active)


@contextmanager
def telemetry(method: str) -> Iterator[Served]:
    """Span, duration and access log of a call."""
    served = Served()
    path = method.lstrip("/")
    service, _, name = path.partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    _active[method] += 1
    code, reason = "OK", ""
    with tracing.serving(path, attributes) as span:
        request = context.peek()
        if request is not None:
            span.set_attribute("citemesh.project_id", request.project_id)
            span.set_attribute("citemesh.request_id", request.request_id)
        try:
            yield served
        except MeshError as error:
            code, reason = error.code.name, error.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code, reason = "CANCELLED", "CANCELLED"
            raise
        except BaseException:
            code, reason = "INTERNAL", "INTERNAL"
            raise
        finally:
            seconds = time.perf_counter() - served.started
            span.set_attribute("rpc.grpc.status", code)
            _active[method] -= 1
            server_duration.record(seconds, {"rpc.method": method, "rpc.status": code})
            streamed = (
                {"messages": served.messages, "first_ms": served.first_ms}
                if served.messages
                else {}
            )
            access_log.write(
                "call",
                ok=code == "OK",
                method=path,
                status=code,
                reason=reason,
                ms=round(seconds * 1000, 2),
                **streamed,
            )


def validate(message: Message) -> None:
    """Checks a message against the rules of its contract.

    Raises:
        InvalidInput: REQUEST_INVALID, naming every field at fault.
    """
    violations = protovalidate.collect_violations(message)
    if not violations:
        return
    fields: dict[str, str] = {}
    for violation in violations:
        proto = violation.proto
        path = ".".join(e.field_name for e in proto.field.elements) if proto.field else ""
        fields[path or "request"] = proto.message or proto.rule_id
    listed = "; ".join(f"{name}: {text}" for name, text in fields.items())
    raise InvalidInput("REQUEST_INVALID", f"The request is not valid: {listed}.", fields=fields)


_CANCELLATION_SECONDS = 0.005
"""How long a caller's cancellation may come after the end of its messages. Beside a busy
second core 8 of 100 came later than one turn of the event loop."""


async def _validated(messages: AsyncIterator[Message]) -> AsyncIterator[Message]:
    """The caller's messages, checked.

    When the caller cancels, gRPC ends the messages as if all had come; a handler
    must not take half of an upload for the whole.
    """
    async for message in messages:
        validate(message)
        yield message
    # The cancellation is an event of its own, brought by another thread a moment later. A
    # contract that must be certain has an end message, and so do those for which a wait counts.
    await asyncio.sleep(_CANCELLATION_SECONDS)


class Pipeline:
    """Puts the stages around every handler, and counts calls in flight."""

    def __init__(self, verifier: Verifier, admission: CallAdmission) -> None:
        self._verifier = verifier
        self._admission = admission
        self._active = 0
        self.idle = asyncio.Event()
        """Set while no call is in flight; watching health is none."""
        self.idle.set()

    async def _serve(
        self,
        method: str,
        servicer_context: grpc.aio.ServicerContext[Any, Any],
        handle: Callable[[Place, Served], Awaitable[T]],
    ) -> T:
        """Runs a handler inside the stages; see the module."""
        self._active += 1
        self.idle.clear()
        try:
            headers = _headers(servicer_context)
            context.enter(caller_of(self._verifier, headers))
            deadline.set_remaining(servicer_context.time_remaining())
            tracing.continue_from(headers)
            with telemetry(method) as served:
                place = await self._admission.enter(method)
                try:
                    return await handle(place, served)
                finally:
                    place.leave()
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  # every one must become a status
            request = context.peek()
            status = to_status(typed(error), request.request_id if request else "")
            await servicer_context.abort_with_status(_with_push_back(status))
            raise AssertionError("unreachable: abort raises") from None
        finally:
            self._active -= 1
            if not self._active:
                self.idle.set()

    def around(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of `method`, such as `/package.Service/Name`, inside the stages."""
        found: Any = handler
        self._admission.register(method)
        if found.response_streaming:
            return self._around_stream(method, found)
        inputs = found.request_streaming
        inner = found.stream_unary if inputs else found.unary_unary
        factory: Any = (
            grpc.stream_unary_rpc_method_handler if inputs else grpc.unary_unary_rpc_method_handler
        )

        async def behaviour(request: Any, servicer_context: Any) -> Any:
            async def handle(place: Place, _: Served) -> Any:
                answer = await inner(_checked(request, inputs), servicer_context)
                place.answered()
                return answer

            return await self._serve(method, servicer_context, handle)

        return _like(found, factory, behaviour)

    def _around_stream(self, method: str, found: Any) -> grpc.RpcMethodHandler[Any, Any]:
        inputs = found.request_streaming
        inner = found.stream_stream if inputs else found.unary_stream
        factory: Any = (
            grpc.stream_stream_rpc_method_handler
            if inputs
            else grpc.unary_stream_rpc_method_handler
        )

        async def behaviour(request: Any, servicer_context: Any) -> None:
            async def handle(place: Place, served: Served) -> None:
                # Written, not yielded: gRPC would leave a generator that it cancels
                # to the garbage collector, which ends the stages in another context.
                async with aclosing(inner(_checked(request, inputs), servicer_context)) as messages:
                    async for message in messages:
                        place.answered()
                        if served.messages:
                            # The first message of an answer is its sources, the second is text.
                            place.written()
                        await servicer_context.write(message)
                        served.sent()

            await self._serve(method, servicer_context, handle)

        return _like(found, factory, behaviour)


def _headers(servicer_context: Any) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else value.decode("latin-1")
        for key, value in servicer_context.invocation_metadata() or ()
    }


def _checked(request: Any, inputs: bool) -> Any:
    """The request, or the stream of them, validated."""
    if inputs:
        return _validated(request)
    validate(request)
    return request


def _like(handler: Any, factory: Any, behaviour: Any) -> grpc.RpcMethodHandler[Any, Any]:
    made: grpc.RpcMethodHandler[Any, Any] = factory(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


def options(settings: ServiceSettings) -> list[tuple[str, Any]]:
    """Server arguments; each is here because its default failed somebody."""
    return [
        # Two processes on one port would each get half of the calls.
        ("grpc.so_reuseport", 0),
        # Clients that balance find new replicas only when a connection ends; the
        # grace is longer than the longest answer, so no stream is cut.
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", 300_000),
        # The channel factory pings every 30 s; the default would call that abuse.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A signed context with 256 principals is larger than the 8 KiB of headers
        # that gRPC takes (16 KiB at most), and every call of its key would fail.
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ]


class _Handlers:
    """What generated code registers on: every handler goes into the pipeline.

    They become generic handlers. Those may be added to a running server, so that
    health can say NOT_SERVING while a service waits for its database; registered
    methods may not.
    """

    def __init__(self, server: grpc.aio.Server, pipeline: Pipeline) -> None:
        self._server = server
        self._pipeline = pipeline

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Serves nothing: generated code registers the same methods by name, too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Serves the methods of a service."""
        around = {
            name: self._pipeline.around(f"/{service}/{name}", handler)
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, around),)
        )


class Server:
    """A gRPC server with health and reflection, not serving until told so."""

    def __init__(
        self, settings: ServiceSettings, verifier: Verifier, tls: Tls | None = None
    ) -> None:
        self._settings = settings
        self._tls = tls
        calls, watches = settings.max_concurrent_rpcs, settings.max_watches
        admission = CallAdmission(calls, watches, adaptive=settings.adaptive_limit)
        self._pipeline = Pipeline(verifier, admission)
        # gRPC's own limit would refuse the questions after our health, too; it is only for a
        # flood of calls that come faster than admission can turn them away.
        self._server = grpc.aio.server(
            options=options(settings),
            maximum_concurrent_rpcs=2 * calls + watches + FLOOD,
        )
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._probed = grpc.aio.server() if settings.health_listen else None
        """The port for probes in plain text, which knows nothing but health."""
        if self._probed is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)
        self.port = 0
        self.health_port = 0
        """0 where health has no port of its own."""

    async def start(self, names: list[str]) -> None:
        """Opens the port and answers NOT_SERVING until `set_serving`.

        Args:
            names: Full names of the services, for health and reflection.

        Raises:
            RuntimeError: when the port is taken.
        """
        self._names = names
        listen = self._settings.listen
        if self._tls is None:
            self.port = self._server.add_insecure_port(listen)
        else:
            self.port = self._server.add_secure_port(listen, self._tls.server())
        await self.set_serving(False)
        reflection.enable_server_reflection(
            (*names, reflection.SERVICE_NAME, health.SERVICE_NAME), self._server
        )
        await self._server.start()
        if self._probed is not None:
            self.health_port = self._probed.add_insecure_port(self._settings.health_listen)
            await self._probed.start()

    def add(self, register: Callable[[Any, Any], None], servicer: Any) -> None:
        """Registers a servicer; also while the server runs."""
        register(servicer, _Handlers(self._server, self._pipeline))

    async def set_serving(self, serving: bool) -> None:
        """Says to whoever watches whether calls are welcome."""
        known = health_pb2.HealthCheckResponse
        status = known.SERVING if serving else known.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def set_part(self, part: str, working: bool) -> None:
        """Says whether something this service can do without is there, such as `opensearch`.

        Asked of health as `<full name of the service>/<part>`.
        """
        known = health_pb2.HealthCheckResponse
        status = known.SERVING if working else known.NOT_SERVING
        await self._health.set(f"{self._names[0]}/{part}", status)

    async def drain(self) -> None:
        """Sends callers elsewhere, lets calls in flight end, then stops.

        gRPC's own grace would wait for callers that only watch our health.
        """
        await self._health.enter_graceful_shutdown()
        try:
            await asyncio.wait_for(self._pipeline.idle.wait(), self._settings.drain_seconds)
        except TimeoutError:
            log.warning("calls cut off after the drain period")
        await self._server.stop(FAREWELL_SECONDS)
        await self.stop()

    async def stop(self) -> None:
        """Stops at once; after `drain` it does nothing."""
        await self._server.stop(None)
        if self._probed is not None:
            await self._probed.stop(None)
