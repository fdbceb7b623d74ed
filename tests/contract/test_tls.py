"""Calls between services over TLS: who is let in, who is believed, and who may ask for health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from citemesh.guardrail import v1 as guardrail_v1
from citemesh.operations import v1 as operations_v1
from gateway.operations import Operations
from meshkit import tls
from meshkit.channel import MeshChannel
from meshkit.context import RequestContext, acting_as
from meshkit.errors import MeshError, Unavailable
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.ids import new_id
from meshkit.process import Process
from meshkit.server import Server
from meshkit.settings import ServiceSettings, SettingsInvalid
from meshkit.tls import Tls
from tests.contract.certificates import Authority, Issued

SERVICE = "citemesh.guardrail.v1.GuardrailService"
HOST = "citemesh-guardrail"
PLAIN = [("grpc.enable_http_proxy", 0)]


class Settings(ServiceSettings, service="guardrail"):
    """Settings of the server under test."""


class Allowing(guardrail_v1.GuardrailServiceServicer):
    """Lets every question through, after a wait if it asks for one."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def CheckInput(self, request: Any, _: Any) -> guardrail_v1.CheckInputResponse:
        if request.text == "wait":
            self.entered.set()
            await self.leave.wait()
        return guardrail_v1.CheckInputResponse(text=request.text)


def given(issued: Issued) -> Settings:
    return Settings(
        listen="127.0.0.1:0",
        health_listen="127.0.0.1:0",
        tls_cert_file=issued.certificate,
        tls_key_file=issued.key,
        tls_ca_file=issued.authority,
    )


def loaded(issued: Issued) -> Tls:
    found = tls.load(given(issued))
    assert found is not None
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def caller(tmp_path: Path) -> RequestContext:
    create_keyring(tmp_path / "keys", ["gateway"])
    return Signer.load(tmp_path / "keys" / "gateway.key").sign(
        project_id="prj_1",
        principals=["user:ann"],
        scopes=["read"],
        subject="key_1",
        request_id=new_id("req"),
    )


@pytest.fixture
def servicer() -> Allowing:
    return Allowing()


@pytest.fixture
async def server(
    authority: Authority, caller: RequestContext, servicer: Allowing, tmp_path: Path
) -> AsyncIterator[Server]:
    settings = given(authority.issue(HOST))
    found = Server(settings, Verifier.load(tmp_path / "keys" / "keyring.json"), tls.load(settings))
    await found.start([SERVICE])
    found.add(guardrail_v1.add_GuardrailServiceServicer_to_server, servicer)
    await found.set_serving(True)
    yield found
    await found.stop()


async def ask(channel: MeshChannel, caller: RequestContext, text: str = "hello") -> str:
    stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
    with acting_as(caller):
        answer = await stub.CheckInput(guardrail_v1.CheckInputRequest(text=text), timeout=3)
    return str(answer.text)


async def health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address, PLAIN) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        found = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=3)
    return int(found.status)


async def test_a_caller_whose_certificate_is_of_the_authority_is_answered(
    server: Server, authority: Authority, caller: RequestContext
) -> None:
    own = loaded(authority.issue("citemesh-generation"))
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE, own, host=HOST) as channel:
        assert await ask(channel, caller) == "hello"


async def test_a_caller_in_plain_text_is_refused(server: Server, caller: RequestContext) -> None:
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE) as channel:
        with pytest.raises(MeshError):
            await ask(channel, caller)


async def test_a_caller_with_the_certificate_of_another_authority_is_refused(
    server: Server, authority: Authority, caller: RequestContext, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger").issue("citemesh-generation")
    # It believes the server, so that the server alone can refuse.
    own = loaded(Issued(stranger.certificate, stranger.key, authority.file))
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE, own, host=HOST) as channel:
        with pytest.raises(Unavailable):
            await ask(channel, caller)


async def test_a_caller_without_a_certificate_is_refused(
    server: Server, authority: Authority
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    named = [*PLAIN, ("grpc.ssl_target_name_override", HOST)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, named) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            request = health_pb2.HealthCheckRequest()
            await health_pb2_grpc.HealthStub(channel).Check(request, timeout=3)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("host", ["citemesh-retrieval", ""])
async def test_a_server_of_another_name_is_not_believed(
    server: Server, authority: Authority, caller: RequestContext, host: str
) -> None:
    own = loaded(authority.issue("citemesh-generation"))
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE, own, host=host) as channel:
        with pytest.raises(Unavailable):
            await ask(channel, caller)


async def test_health_has_a_port_in_plain_text_that_knows_nothing_else(
    server: Server, caller: RequestContext
) -> None:
    address = f"127.0.0.1:{server.health_port}"
    serving = int(health_pb2.HealthCheckResponse.SERVING)
    assert await health(address) == serving
    assert await health(address, SERVICE) == serving
    await server.set_serving(False)
    assert await health(address, SERVICE) == int(health_pb2.HealthCheckResponse.NOT_SERVING)
    async with grpc.aio.insecure_channel(address, PLAIN) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            stub = guardrail_v1.GuardrailServiceAsyncStub(channel)
            await stub.CheckInput(guardrail_v1.CheckInputRequest(text="hello"), timeout=3)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_probes_are_answered_while_calls_drain_and_not_after(
    server: Server, authority: Authority, caller: RequestContext, servicer: Allowing
) -> None:
    address = f"127.0.0.1:{server.health_port}"
    own = loaded(authority.issue("citemesh-generation"))
    async with MeshChannel(f"127.0.0.1:{server.port}", SERVICE, own, host=HOST) as channel:
        asked = asyncio.create_task(ask(channel, caller, "wait"))
        await asyncio.wait_for(servicer.entered.wait(), 5)
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
        assert await health(address) == int(health_pb2.HealthCheckResponse.NOT_SERVING)
        servicer.leave.set()
        assert await asked == "wait"
    await draining
    with pytest.raises(grpc.aio.AioRpcError):
        await health(address)


class Unbroken(operations_v1.OperationsServiceServicer):
    """A process whose breakers are all closed."""

    async def ListBreakers(self, _: Any, __: Any) -> operations_v1.ListBreakersResponse:
        return operations_v1.ListBreakersResponse()


async def test_a_replica_is_dialled_by_its_address_and_believed_by_the_name_of_its_component(
    authority: Authority, caller: RequestContext, tmp_path: Path
) -> None:
    """The gateway asks every process behind a name; a certificate knows the name alone."""
    rerank, keys = "citemesh.rerank.v1.RerankService", tmp_path / "keys"
    own = loaded(authority.issue("citemesh-gateway"))
    for host, answers in (("localhost", True), ("elsewhere", False)):
        settings = given(authority.issue(host))
        server = Server(settings, Verifier.load(keys / "keyring.json"), tls.load(settings))
        await server.start([rerank])
        server.add(operations_v1.add_OperationsServiceServicer_to_server, Unbroken())
        await server.set_serving(True)
        addresses = {"rerank": f"dns:///localhost:{server.port}"}
        operations = Operations(addresses, Signer.load(keys / "gateway.key"), own)
        try:
            silent = (await operations.breakers()).silent
        finally:
            await operations.close()
            await server.stop()
        reached = f"127.0.0.1:{server.port}" not in {replica.address for replica in silent}
        assert reached is answers, host


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda own: {"tls_key_file": None}, "TLS_KEY_FILE must name a file"),
        (lambda own: {"tls_ca_file": None}, "TLS_CA_FILE must name a file"),
        (lambda own: {"tls_ca_file": own.key}, "TLS_CA_FILE is .* cannot be used"),
        (lambda own: {"tls_key_file": own.certificate}, "TLS_KEY_FILE is .* cannot be used"),
        (lambda own: {"tls_cert_file": Path("/nowhere")}, "TLS_CERT_FILE is .* cannot be used"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_named_at_the_start(
    authority: Authority, spoil: Any, named: str
) -> None:
    own = authority.issue(HOST)
    settings = given(own).model_copy(update=spoil(own))
    with pytest.raises(SettingsInvalid, match=named):
        Process(settings)


async def test_an_empty_variable_is_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CERT", "KEY", "CA"):
        monkeypatch.setenv(f"CITEMESH_TLS_{name}_FILE", "")
    assert Process(Settings()).tls is None
