"""What an operator sees of providers that fail, and what ends their rest."""

from __future__ import annotations

from typing import Any

import pytest

from citemesh.operations import v1 as operations_v1
from gateway.operations import Operations, Replica
from meshkit.context import acting_as
from meshkit.errors import PermissionDenied
from meshkit.identity import Signer
from meshkit.providers.errors import KeyRejected, Overloaded
from tests.contract.gateway.conftest import PROVIDER


def fail(gateway: Any, error: Any) -> None:
    with pytest.raises(type(error)), gateway.services.breakers.guard(PROVIDER):
        raise error


async def test_a_breaker_that_is_open_is_listed_and_can_be_closed_by_hand(gateway: Any) -> None:
    for _ in range(2):
        fail(gateway, Overloaded(PROVIDER))
    async with gateway.client(await gateway.key("admin")) as client:
        [account, model] = (await client.get("/v1/providers")).json()["breakers"]
        assert (account["model"], account["state"], account["fault"]) == ("", "closed", "")
        assert (model["component"], model["provider"]) == ("generation", "gemini")
        assert (model["state"], model["fault"], model["step"]) == ("open", "transient", 1)
        assert 0 < model["seconds_left"] <= 6
        other = await client.post("/v1/providers:reset", json={"provider": "cohere"})
        assert other.json() == {"closed": 0, "silent": []}
        told = await client.post("/v1/providers:reset", json={"provider": "gemini"})
        assert told.json() == {"closed": 1, "silent": []}
        states = {b["state"] for b in (await client.get("/v1/providers")).json()["breakers"]}
        assert states == {"closed"}


async def test_only_an_admin_sees_and_resets(gateway: Any) -> None:
    async with gateway.client(await gateway.key("read", "write")) as client:
        assert (await client.get("/v1/providers")).status_code == 403
        assert (await client.post("/v1/providers:reset", json={})).status_code == 403


async def test_the_processes_themselves_refuse_everybody_else(
    gateway: Any, backend: Any, keyring: Any
) -> None:
    from meshkit.channel import MeshChannel
    from tests.contract.gateway.conftest import GENERATION

    user = Signer.load(keyring / "gateway.key").sign(
        project_id="prj", principals=[], scopes=["read", "write"], subject="key:x", request_id="r"
    )
    async with MeshChannel(backend[1], GENERATION) as channel:
        stub = operations_v1.OperationsServiceAsyncStub(channel)
        with acting_as(user):
            with pytest.raises(PermissionDenied):
                await stub.ListBreakers(operations_v1.ListBreakersRequest())
            with pytest.raises(PermissionDenied):
                await stub.ResetBreakers(operations_v1.ResetBreakersRequest())


async def test_readiness_shows_open_breakers_and_stays_ready(gateway: Any) -> None:
    gateway.slot.readiness.watch_breakers(gateway.mesh.operations.breakers)
    async with gateway.client() as client:
        before = await client.get("/readyz")
        assert (before.status_code, before.json()["breakers"]) == (200, [])
        fail(gateway, KeyRejected(PROVIDER))
        gateway.slot.readiness.watch_breakers(gateway.mesh.operations.breakers)
        report = await client.get("/readyz")
    assert (report.status_code, report.json()["status"]) == (200, "ready")
    [shown] = report.json()["breakers"]
    assert (shown["provider"], shown["model"], shown["fault"]) == ("gemini", "", "revoked")


async def test_a_process_that_does_not_answer_is_named(keyring: Any, backend: Any) -> None:
    nobody, neither = "127.0.0.1:1", "127.0.0.1:2"
    listed = f"ipv4:{nobody},{neither}"
    operations = Operations(
        {"rerank": listed, "generation": backend[1], "retrieval": nobody},
        Signer.load(keyring / "gateway.key"),
    )
    try:
        report = await operations.breakers()
    finally:
        await operations.close()
    # Retrieval calls no provider and is not asked.
    assert report.silent == (Replica("rerank", nobody), Replica("rerank", neither))
