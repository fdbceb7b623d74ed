"""Who gets in, with what, and how often."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from gateway.api_keys import digest, new_secret
from meshkit.identity import Verifier


async def refusal(client: Any, path: str = "/v1/usage") -> tuple[int, str]:
    response = await client.get(path)
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["reason"]


async def test_without_credentials_nobody_gets_in(gateway: Any) -> None:
    async with gateway.client() as client:
        response = await client.get("/v1/usage")
        assert response.status_code == 401
        assert response.json()["reason"] == "CREDENTIALS_MISSING"
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["wrong", "cmk_" + "a" * 43, "a.b.c", "cmk_"])
async def test_a_wrong_key_is_refused(gateway: Any, key: str) -> None:
    async with gateway.client(key) as client:
        assert await refusal(client) == (401, "KEY_INVALID")


async def test_strangers_are_refused_before_their_body_is_read(gateway: Any) -> None:
    async with gateway.client(new_secret()) as client:
        response = await client.post("/v1/search", content="not json")
    assert response.status_code == 401


async def test_a_revoked_key_is_refused_at_once(gateway: Any) -> None:
    key = await gateway.key("read")
    async with (
        gateway.client(key) as client,
        gateway.client(await gateway.key("admin")) as admin,
    ):
        assert (await client.get("/v1/usage")).status_code == 200
        project = (await client.get("/v1/usage")).json()["project_id"]
        listed = (await admin.get("/v1/keys", params={"project_id": project})).json()["keys"]
        assert (await admin.delete(f"/v1/keys/{listed[0]['id']}")).status_code == 204
        assert await refusal(client) == (401, "KEY_REVOKED")


async def test_an_expired_key_is_refused_although_it_is_remembered(gateway: Any) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=0.6)
    async with gateway.client(await gateway.key("read", expires_at=ends)) as client:
        assert (await client.get("/v1/usage")).status_code == 200
        until = time.monotonic() + 5
        while (found := await client.get("/v1/usage")).status_code == 200:
            assert time.monotonic() < until
        assert found.json()["reason"] == "KEY_EXPIRED"


@pytest.mark.parametrize(
    ("scopes", "method", "path"),
    [
        (("read",), "POST", "/v1/documents"),
        (("read",), "DELETE", "/v1/documents/doc_1"),
        (("write",), "GET", "/v1/documents"),
        (("read", "write"), "GET", "/v1/projects"),
        (("read", "write"), "POST", "/v1/keys"),
        (("read", "write"), "DELETE", "/v1/projects/prj_1"),
    ],
)
async def test_a_missing_scope_is_named(
    gateway: Any, scopes: tuple[str, ...], method: str, path: str
) -> None:
    async with gateway.client(await gateway.key(*scopes)) as client:
        response = await client.request(method, path)
    assert response.status_code == 403
    assert response.json()["reason"] == "SCOPE_MISSING"


async def test_services_get_the_callers_signed_context(gateway: Any) -> None:
    key = await gateway.key("read", principals=("user:ann", "group:hr"))
    async with gateway.client(key) as client:
        response = await client.post(
            "/v1/search", json={"query": "a"}, headers={"X-Request-ID": "request-0001"}
        )
        assert response.status_code == 200
        project = (await client.get("/v1/usage")).json()["project_id"]
    seen = gateway.services.contexts[-1]
    assert seen.project_id == project
    assert seen.principals == ("user:ann", "group:hr")
    assert seen.scopes == {"read"}
    assert seen.request_id == "request-0001"
    assert seen.issuer == "gateway"
    assert time.time() < seen.expires_at <= time.time() + 301


async def test_a_token_for_stub_clients_is_one_the_services_accept(
    gateway: Any, keyring: Path
) -> None:
    async with gateway.client(await gateway.key("read", principals=("user:ann",))) as client:
        body = (await client.post("/v1/token")).json()
    context = Verifier.load(keyring / "keyring.json").verify(body["token"])
    assert context.project_id == body["project_id"]
    assert context.principals == ("user:ann",)
    assert context.expires_at == body["expires_at"]
    assert body["services"]["retrieval"]


async def test_a_token_does_not_outlive_its_key(gateway: Any) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=60)
    async with gateway.client(await gateway.key("read", expires_at=ends)) as client:
        body = (await client.post("/v1/token")).json()
    assert body["expires_at"] <= ends.timestamp()
    assert 50 < body["expires_in"] <= 60


async def test_a_key_that_asks_too_often_waits(start_gateway: Any) -> None:
    async with start_gateway(key_limit="3/minute") as gateway:
        key, other = await gateway.key("read"), await gateway.key("read")
        async with gateway.client(key) as client:
            answers = [await client.get("/v1/usage") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json()["reason"] == "KEY_LIMIT_EXCEEDED"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        async with gateway.client(other) as client:
            assert (await client.get("/v1/usage")).status_code == 200


async def test_an_address_that_asks_too_often_waits_whatever_its_keys(start_gateway: Any) -> None:
    async with start_gateway(address_limit="2/minute") as gateway:
        codes = []
        for _ in range(3):
            async with gateway.client(await gateway.key("read")) as client:
                codes.append((await client.get("/v1/usage")).status_code)
    assert codes == [200, 200, 429]


async def test_an_address_that_guesses_keys_is_shut_out(start_gateway: Any) -> None:
    async with start_gateway(failure_limit="3/minute") as gateway:
        for _ in range(3):
            async with gateway.client(new_secret()) as client:
                assert await refusal(client) == (401, "KEY_INVALID")
        async with gateway.client(await gateway.key("read")) as client:
            assert await refusal(client) == (429, "TOO_MANY_FAILURES")


async def test_pages_without_a_key_are_limited_by_address_and_probes_are_not(
    start_gateway: Any,
) -> None:
    async with start_gateway(anonymous_limit="2/minute") as gateway, gateway.client() as client:
        assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 429]
        assert {(await client.get("/healthz")).status_code for _ in range(5)} == {200}


async def test_a_forwarded_address_is_not_believed_by_default(start_gateway: Any) -> None:
    async with start_gateway(anonymous_limit="1/minute") as gateway, gateway.client() as client:
        codes = [
            (await client.get("/", headers={"X-Forwarded-For": f"10.0.0.{n}"})).status_code
            for n in range(2)
        ]
    assert codes == [200, 429]


# ---- tokens of an external issuer

ISSUER, AUDIENCE = "https://id.example", "citemesh-test"


@pytest.fixture
def issuer(tmp_path: Path) -> tuple[Any, dict[str, str]]:
    """A private key, and the settings that trust its public one."""
    private = generate_private_key(SECP256R1())
    public = {**ECAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "k1", "alg": "ES256"}
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public]}))
    return private, {"jwt_jwks": str(path), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def claims(project_id: str, **changed: Any) -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": time.time() + 60,
        "project": project_id,
        "groups": ["hr", "team:red"],
        "scope": "openid read internal",
        **changed,
    }


async def test_a_token_of_the_trusted_issuer_gets_in(start_gateway: Any, issuer: Any) -> None:
    private, settings = issuer
    async with start_gateway(**settings) as gateway:
        project = (await gateway.mesh.projects.create(f"jwt-{time.time_ns()}", {})).id
        token = jwt.encode(claims(project), private, "ES256", headers={"kid": "k1"})
        async with gateway.client(token) as client:
            assert (await client.post("/v1/search", json={"query": "a"})).status_code == 200
    seen = gateway.services.contexts[-1]
    assert seen.project_id == project
    assert seen.principals == ("user:ann", "group:hr", "team:red")
    assert seen.scopes == {"read"}, "an outside issuer never grants `internal`"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": 1}, "TOKEN_EXPIRED"),
        ({"aud": "other"}, "TOKEN_INVALID"),
        ({"iss": "https://evil.example"}, "TOKEN_INVALID"),
        ({"project": "prj_unknown"}, "TOKEN_INVALID"),
        ({"project": None}, "TOKEN_INVALID"),
        ({"project": ["a"]}, "TOKEN_INVALID"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused(
    start_gateway: Any, issuer: Any, changed: dict[str, Any], reason: str
) -> None:
    private, settings = issuer
    async with start_gateway(**settings) as gateway:
        project = (await gateway.mesh.projects.create(f"jwt-{time.time_ns()}", {})).id
        token = jwt.encode(claims(project, **changed), private, "ES256", headers={"kid": "k1"})
        async with gateway.client(token) as client:
            assert await refusal(client) == (401, reason)


async def test_a_token_with_a_forged_signature_is_refused(start_gateway: Any, issuer: Any) -> None:
    private, settings = issuer
    public = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    forged = [
        jwt.encode(claims("p"), generate_private_key(SECP256R1()), "ES256", headers={"kid": "k1"}),
        jwt.encode(claims("p"), private, "ES256", headers={"kid": "unknown"}),
        # The classic: the public key taken for a shared secret, and no signature at all.
        jwt.encode(claims("p"), public, "HS256", headers={"kid": "k1"}),
        jwt.encode(claims("p"), None, "none", headers={"kid": "k1"}),
    ]
    async with start_gateway(**settings) as gateway:
        for token in forged:
            async with gateway.client(token) as client:
                assert await refusal(client) == (401, "TOKEN_INVALID")


async def test_tokens_are_refused_while_no_issuer_is_configured(gateway: Any, issuer: Any) -> None:
    token = jwt.encode(claims("p"), issuer[0], "ES256", headers={"kid": "k1"})
    async with gateway.client(token) as client:
        assert await refusal(client) == (401, "KEY_INVALID")


# ---- the schema


async def test_the_runtime_role_sees_only_the_project_it_names(gateway: Any, postgres: Any) -> None:
    one, two = await gateway.key("read"), await gateway.key("read")
    found = await gateway.mesh.keys.find(digest(one))
    connection = await asyncpg.connect(postgres.dsn("gateway"))
    try:
        assert await connection.fetchval("SELECT count(*) FROM gateway.api_key") == 0
        async with connection.transaction():
            await connection.execute(
                "SELECT set_config('citemesh.project_id', $1, true)", found.project_id
            )
            assert await connection.fetchval("SELECT count(*) FROM gateway.api_key") == 1
            assert await connection.fetchval("SELECT count(*) FROM gateway.project") == 1
    finally:
        await connection.close()
    assert one != two


async def test_no_other_service_reads_keys_or_asks_for_them(postgres: Any) -> None:
    for service in ("retrieval", "ingestion", "generation"):
        connection = await asyncpg.connect(postgres.dsn(service))
        try:
            for statement in (
                "SELECT * FROM gateway.api_key",
                "SELECT * FROM gateway.find_key('\\x00')",
                "SELECT * FROM gateway.find_caller('\\x00')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()


async def test_the_secret_of_a_key_is_stored_nowhere(gateway: Any, postgres: Any) -> None:
    key = await gateway.key("read")
    connection = await asyncpg.connect(postgres.owner_dsn)
    try:
        rows = await connection.fetch("SELECT row_to_json(k)::text AS row FROM gateway.api_key k")
    finally:
        await connection.close()
    assert all(key not in row["row"] for row in rows)
    assert all(key[12:] not in row["row"] for row in rows)
