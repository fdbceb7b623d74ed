"""A signing key is replaced while callers come and documents are processed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import jwt
import pytest

from citemesh.retrieval import v1 as retrieval_v1
from meshkit.channel import CONTEXT_HEADER, MeshChannel
from meshkit.components import BY_NAME
from meshkit.errors import Unauthenticated
from meshkit.ids import new_id
from meshkit.rotation import add, keys, retire, switch
from tests.mesh.conftest import RunningMesh
from tests.rolling.traffic import Traffic

pytestmark = pytest.mark.mesh

ISSUERS = ("gateway", "ingestion")
WITHIN_SECONDS = 20.0


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_keys_are_rotated_and_no_request_fails(mesh: RunningMesh) -> None:
    project = mesh.http.post("/v1/projects", json={"name": new_id("rotation")}).json()["id"]
    asked = {"name": "rotation", "project_id": project, "scopes": ["read", "write"]}
    api_key = mesh.http.post("/v1/keys", json=asked).json()["key"]
    directory = mesh.data.identity

    def token() -> str:
        found: str = mesh.http.post("/v1/token").raise_for_status().json()["token"]
        return found

    async def all_sign_with_the_new_key() -> bool:
        signs = jwt.get_unverified_header(await asyncio.to_thread(token))["kid"]
        lines = [json.loads(line) for line in mesh.log("ingestion").splitlines()[-200:]]
        return signs == new["gateway"] and any(
            line.get("kid") == new["ingestion"] for line in lines
        )

    async def is_refused() -> bool:
        try:
            await stub.Search(
                retrieval_v1.SearchRequest(query="gate"), metadata=[(CONTEXT_HEADER, old)]
            )
        except Unauthenticated as error:
            return error.reason == "CONTEXT_INVALID"
        return False

    address, service = mesh.child("retrieval").address, BY_NAME["retrieval"].grpc_service
    traffic = Traffic([mesh.url], api_key, per_second=6.0)
    async with traffic.connected(), MeshChannel(address, service) as channel:
        stub = retrieval_v1.RetrievalServiceAsyncStub(channel)
        old = await asyncio.to_thread(token)
        async with traffic.flowing():
            for issuer in ISSUERS:
                add(directory, issuer)
            new = {issuer: switch(directory, issuer) for issuer in ISSUERS}
            await until(all_sign_with_the_new_key)
            assert not await is_refused(), "what the old key signed is good until it is retired"
            # Instead of six minutes: until everything that the old keys signed has ended.
            await traffic.passed()
            await traffic.settled(list(traffic.acknowledged))
            for issuer in ISSUERS:
                assert len(retire(directory, issuer, leaked=True)) == 1
            await until(is_refused)
        await traffic.settled(traffic.acknowledged)
    assert traffic.failed() == {}
    assert {each.kind for each in traffic.outcomes} == {"search", "ask", "upload"}
    assert [line for line in keys(directory) if not line.signs] == []
