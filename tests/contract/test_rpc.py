"""The server and channel factories over real sockets: what every hop promises.

The guardrail contract serves as the example because it has unary and streaming
calls; the servicer is the test's own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from citemesh.guardrail import v1 as guardrail_v1
from meshkit import clock, context, deadline
from meshkit.channel import MeshChannel, streaming
from meshkit.context import RequestContext, acting_as
from meshkit.errors import (
    Busy,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.server import Server
from meshkit.settings import ServiceSettings
from meshkit.telemetry import tracing

SERVICE = "citemesh.guardrail.v1.GuardrailService"


class Settings(ServiceSettings, service="guardrail"):
    """Settings of the servers under test."""


class Echo(guardrail_v1.GuardrailServiceServicer):
    """Does what the text of the question says."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.downstream: guardrail_v1.GuardrailServiceAsyncStub | None = None

    async def CheckInput(self, request: Any, _: Any) -> guardrail_v1.CheckInputResponse:
        self.calls += 1
        self.entered.set()
        match request.text:
            case "leak":
                raise ValueError("password=hunter2")
            case "missing":
                raise NotFound("THING_NOT_FOUND", "There is no such thing.")
            case "down":
                raise Unavailable("SOMETHING_DOWN", "Something behind this service is down.")
            case "wait":
                try:
                    await self.leave.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "hop":
                assert self.downstream is not None
                inner = guardrail_v1.CheckInputRequest(text="deadline")
                return await self.downstream.CheckInput(inner, timeout=60)
            case "traced hop":
                assert self.downstream is not None
                return await self.downstream.CheckInput(ask("trace"))
            case "trace":
                return guardrail_v1.CheckInputResponse(text=tracing.current_trace_id())
            case "deadline":
                return guardrail_v1.CheckInputResponse(text=str(deadline.remaining()))
            case "which":
                return guardrail_v1.CheckInputResponse(text=context.current().request_id)
        return guardrail_v1.CheckInputResponse(text=context.current().project_id)

    async def FilterOutput(
        self, requests: AsyncIterator[Any], _: Any
    ) -> AsyncIterator[guardrail_v1.FilterOutputResponse]:
        try:
            async for request in requests:
                if request.delta.text == "down":
                    raise Unavailable("SOMETHING_DOWN", "Something behind this service is down.")
                yield guardrail_v1.FilterOutputResponse(delta=request.delta)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keyring(tmp_path, ["gateway"])
    return tmp_path


@pytest.fixture
def caller(keys: Path) -> RequestContext:
    return Signer.load(keys / "gateway.key").sign(
        project_id="prj_1",
        principals=["user:ann"],
        scopes=["read"],
        subject="key_1",
        request_id="req_1",
    )


@pytest.fixture
def echo() -> Echo:
    return Echo()


async def open_server(keys: Path, servicer: Echo, **settings: Any) -> Server:
    server = Server(Settings(**settings), Verifier.load(keys / "keyring.json"))
    await server.start([SERVICE])
    server.add(guardrail_v1.add_GuardrailServiceServicer_to_server, servicer)
    await server.set_serving(True)
    return server


@pytest.fixture
async def server(keys: Path, echo: Echo) -> AsyncIterator[Server]:
    server = await open_server(keys, echo, drain_seconds=0)
    yield server
    await server.drain()


@pytest.fixture
async def stub(server: Server) -> AsyncIterator[guardrail_v1.GuardrailServiceAsyncStub]:
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
        yield guardrail_v1.GuardrailServiceAsyncStub(channel)


def ask(text: str) -> guardrail_v1.CheckInputRequest:
    return guardrail_v1.CheckInputRequest(text=text)


def say(text: str) -> guardrail_v1.FilterOutputRequest:
    return guardrail_v1.FilterOutputRequest(delta=guardrail_v1.FilterDelta(text=text))


async def failure(call: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await call
    return caught.value


async def test_the_signed_context_reaches_the_servicer(stub: Any, caller: RequestContext) -> None:
    with acting_as(caller):
        assert (await stub.CheckInput(ask("who"))).text == "prj_1"


async def test_each_request_has_its_name_although_they_share_a_signature(
    stub: Any, caller: RequestContext
) -> None:
    for name in ("req_first_one", "req_second_one"):
        with acting_as(replace(caller, request_id=name)):
            assert (await stub.CheckInput(ask("which"))).text == name


@pytest.mark.parametrize("name", ["short", "with space in it", "an.innocent/path", "x" * 129])
async def test_a_name_that_is_no_plain_word_is_not_taken(
    stub: Any, caller: RequestContext, name: str
) -> None:
    with acting_as(replace(caller, request_id=name)):
        assert (await stub.CheckInput(ask("which"))).text == caller.request_id


async def test_a_call_without_a_context_is_refused(stub: Any, echo: Echo) -> None:
    error = await failure(stub.CheckInput(ask("who")))
    assert (type(error), error.reason) == (Unauthenticated, "CONTEXT_MISSING")
    assert echo.calls == 0


async def test_a_forged_context_is_refused(
    stub: Any, echo: Echo, caller: RequestContext, tmp_path: Path
) -> None:
    create_keyring(tmp_path / "thief", ["gateway"])
    forged = Signer.load(tmp_path / "thief" / "gateway.key").sign(
        project_id="prj_1", principals=[], scopes=["read"], subject="x", request_id="r"
    )
    with acting_as(forged):
        error = await failure(stub.CheckInput(ask("who")))
    assert error.reason == "CONTEXT_INVALID"
    assert echo.calls == 0


@pytest.mark.parametrize("off", [3_600.0, -3_600.0])
async def test_a_server_with_another_time_is_no_fault_of_the_caller(
    keys: Path, echo: Echo, caller: RequestContext, off: float
) -> None:
    verifier = Verifier.load(keys / "keyring.json", lambda: clock.now() + off)
    server = Server(Settings(drain_seconds=0), verifier)
    await server.start([SERVICE])
    server.add(guardrail_v1.add_GuardrailServiceServicer_to_server, echo)
    await server.set_serving(True)
    try:
        async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
            stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
            with acting_as(caller):
                error = await failure(stub.CheckInput(ask("who")))
            assert (type(error), error.reason) == (Unavailable, "CLOCKS_DISAGREE")
            # A context that is over for its bearer too is the bearer's own affair.
            with acting_as(replace(caller, expires_at=clock.now() - 1)):
                error = await failure(stub.CheckInput(ask("who")))
            assert type(error) is Unauthenticated
    finally:
        await server.drain()
    assert echo.calls == 0


async def test_a_request_against_the_contract_never_reaches_the_servicer(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        error = await failure(stub.CheckInput(ask("x" * 9000)))
    assert type(error) is InvalidInput
    assert "text" in error.fields
    assert echo.calls == 0


async def test_an_unexpected_exception_keeps_its_text_to_itself(
    stub: Any, caller: RequestContext, caplog: pytest.LogCaptureFixture
) -> None:
    with acting_as(caller):
        error = await failure(stub.CheckInput(ask("leak")))
    assert type(error) is Internal
    assert error.metadata["request_id"] == "req_1"
    assert "hunter2" not in f"{error} {error.metadata}"


async def test_an_error_of_a_handler_is_not_retried(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        error = await failure(stub.CheckInput(ask("down")))
    assert error.reason == "SOMETHING_DOWN"
    assert echo.calls == 1


async def test_a_service_that_comes_up_late_is_waited_for_by_retries(
    keys: Path, echo: Echo, caller: RequestContext
) -> None:
    first = await open_server(keys, echo, drain_seconds=0)
    port = first.port
    async with MeshChannel(f"127.0.0.1:{port}", SERVICE) as channel:
        stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
        with acting_as(caller):
            await stub.CheckInput(ask("who"))
            await first.drain()
            call = asyncio.ensure_future(stub.CheckInput(ask("who"), timeout=5))
            second = await open_server(keys, echo, listen=f"127.0.0.1:{port}", drain_seconds=0)
            try:
                assert (await call).text == "prj_1"
            finally:
                await second.drain()


async def test_the_next_hop_has_less_time_than_this_one(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    echo.downstream = stub
    with acting_as(caller):
        left = float((await stub.CheckInput(ask("hop"), timeout=2.0)).text)
    assert 0 < left < 2.0


async def test_a_deadline_ends_the_call_and_the_work(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        error = await failure(stub.CheckInput(ask("wait"), timeout=0.2))
    assert type(error) is DeadlineExceeded
    async with asyncio.timeout(30):
        await echo.cancelled.wait()


async def test_cancelling_the_caller_cancels_the_work(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        call = asyncio.ensure_future(stub.CheckInput(ask("wait")))
    await echo.entered.wait()
    call.cancel()
    async with asyncio.timeout(30):
        await echo.cancelled.wait()


async def test_one_call_too_many_is_refused_and_the_rest_goes_on(
    keys: Path, echo: Echo, caller: RequestContext
) -> None:
    server = await open_server(keys, echo, max_concurrent_rpcs=2, drain_seconds=1)
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
        stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
        with acting_as(caller):
            served = [asyncio.ensure_future(stub.CheckInput(ask("wait"))) for _ in range(2)]
            async with asyncio.timeout(30):
                while echo.calls < 2:
                    await asyncio.sleep(0.01)
            refused = await asyncio.gather(*(failure(stub.CheckInput(ask("x"))) for _ in range(20)))
            for error in refused:
                assert (type(error), error.reason) == (Busy, "SERVICE_BUSY")
                assert error.metadata["request_id"] == "req_1"
                assert error.retry_after is not None
                assert error.retry_after >= 1
            # Whoever asks after the health of a server that is full gets an answer.
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=30
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            echo.leave.set()
            for call in served:
                assert (await call).text == "prj_1"
            assert (await stub.CheckInput(ask("who"))).text == "prj_1"
    await server.drain()


async def test_a_refused_call_is_not_made_again_behind_its_callers_back(
    keys: Path,
    echo: Echo,
    caller: RequestContext,
    spans: InMemorySpanExporter,
) -> None:
    server = await open_server(keys, echo, max_concurrent_rpcs=1, drain_seconds=1)
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
        stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
        with acting_as(caller):
            served = asyncio.ensure_future(stub.CheckInput(ask("wait")))
            await echo.entered.wait()
            await asyncio.gather(*(failure(stub.CheckInput(ask("x"))) for _ in range(10)))
            echo.leave.set()
            await served
    await server.drain()
    # One span of the server for each call: retries would have spans of their own there.
    assert Counter(span.kind.name for span in await finished(spans, 22)) == {
        "CLIENT": 11,
        "SERVER": 11,
    }


async def test_a_call_in_flight_ends_before_the_server_stops(
    keys: Path, echo: Echo, caller: RequestContext
) -> None:
    server = await open_server(keys, echo, drain_seconds=5)
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
        stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
        with acting_as(caller):
            call = asyncio.ensure_future(stub.CheckInput(ask("wait")))
            await echo.entered.wait()
            draining = asyncio.create_task(server.drain())
            echo.leave.set()
            assert (await call).text == "prj_1"
        await draining


async def test_health_tells_apart_starting_serving_and_draining(keys: Path, echo: Echo) -> None:
    server = Server(Settings(drain_seconds=0), Verifier.load(keys / "keyring.json"))
    await server.start([SERVICE])
    seen = []
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        seen.append((await watch.read()).status)
        await server.set_serving(True)
        seen.append((await watch.read()).status)
        draining = asyncio.create_task(server.drain())
        seen.append((await watch.read()).status)
        await draining
    known = health_pb2.HealthCheckResponse
    assert seen == [known.NOT_SERVING, known.SERVING, known.NOT_SERVING]


async def test_leaving_a_stream_early_cancels_it_at_the_server(
    stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        async with streaming(stub.FilterOutput()) as stream:
            await stream.write(say("a"))
            assert (await stream.read()).delta.text == "a"
    async with asyncio.timeout(30):
        await echo.cancelled.wait()


async def test_an_error_in_the_middle_of_a_stream_keeps_its_reason(
    stub: Any, caller: RequestContext
) -> None:
    with acting_as(caller), pytest.raises(Unavailable) as caught:
        async with streaming(stub.FilterOutput()) as stream:
            await stream.write(say("a"))
            await stream.read()
            await stream.write(say("down"))
            await stream.read()
    assert caught.value.reason == "SOMETHING_DOWN"


async def finished(spans: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The spans, once as many as expected have ended; the server's ends after the client's."""
    async with asyncio.timeout(30):
        while len(found := list(spans.get_finished_spans())) < count:
            await asyncio.sleep(0.01)
    return found


async def test_one_trace_holds_both_sides_of_every_hop(
    spans: InMemorySpanExporter, stub: Any, echo: Echo, caller: RequestContext
) -> None:
    echo.downstream = stub
    with acting_as(caller):
        await stub.CheckInput(ask("hop"))
    found = await finished(spans, 4)
    assert len({span.context.trace_id for span in found if span.context}) == 1
    by_id = {span.context.span_id: span for span in found if span.context}
    parents = [by_id[span.parent.span_id].kind.name for span in found if span.parent]
    assert sorted(parents) == ["CLIENT", "CLIENT", "SERVER"]


async def test_a_trace_that_is_left_out_makes_no_spans_and_goes_on(
    spans: InMemorySpanExporter,
    stub: Any,
    echo: Echo,
    caller: RequestContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_children_follow", True)
    echo.downstream = stub
    trace_id = 0x0AF7651916CD43DD8448EB211C80319C
    left_out = trace.NonRecordingSpan(trace.SpanContext(trace_id, 1, True, trace.TraceFlags(0)))
    with acting_as(caller), trace.use_span(left_out):
        found = await stub.CheckInput(ask("traced hop"))
        with tracing.span("inside") as inside:
            assert not inside.is_recording()
    assert found.text == format(trace_id, "032x")
    assert not spans.get_finished_spans()


async def test_the_client_span_of_a_cancelled_stream_is_recorded_as_cancelled(
    spans: InMemorySpanExporter, stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        async with streaming(stub.FilterOutput()) as stream:
            await stream.write(say("a"))
            await stream.read()
    await echo.cancelled.wait()
    for span in await finished(spans, 2):
        assert span.attributes is not None
        assert span.attributes["citemesh.cancelled"] is True
        assert not span.status.is_ok


async def test_the_client_span_of_a_stream_left_after_its_last_wanted_message_is_a_success(
    spans: InMemorySpanExporter, stub: Any, echo: Echo, caller: RequestContext
) -> None:
    with acting_as(caller):
        async with streaming(stub.FilterOutput()) as stream:
            await stream.write(say("a"))
            await stream.read()
            stream.satisfied()
    await echo.cancelled.wait()
    found = await finished(spans, 2)
    client = next(span for span in found if span.kind.name == "CLIENT")
    assert client.attributes is not None
    assert client.attributes["rpc.grpc.status"] == "OK"
    assert "citemesh.cancelled" not in client.attributes


async def test_a_callers_mistake_is_no_error_of_the_server(
    spans: InMemorySpanExporter, stub: Any, caller: RequestContext
) -> None:
    with acting_as(caller):
        await failure(stub.CheckInput(ask("missing")))
    client, server = sorted(await finished(spans, 2), key=lambda span: span.kind.name)
    assert not client.status.is_ok
    assert server.status.status_code.name == "UNSET"
    assert server.attributes is not None
    assert server.attributes["error.type"] == "THING_NOT_FOUND"
