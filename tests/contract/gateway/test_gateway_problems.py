"""Every error is a problem with a reason and the request's id."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from meshkit.errors import BudgetExhausted, NotFound, Unavailable


def problem(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The response's body, once it was seen to be the problem that is expected."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["reason"] == reason
    assert body["status"] == status
    assert body["detail"].endswith(".")
    assert body["title"]
    assert body["type"] == f"urn:citemesh:error:{reason}"
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_an_unknown_path_is_a_problem(gateway: Any) -> None:
    async with gateway.client() as client:
        problem(await client.get("/v1/nothing"), 404, "ROUTE_NOT_FOUND")
        problem(await client.get("/console/../settings.py"), 404, "ROUTE_NOT_FOUND")
        problem(await client.get("/console/%2e%2e%2fsettings.py"), 404, "ROUTE_NOT_FOUND")


async def test_a_method_that_a_path_does_not_know_is_a_problem(gateway: Any) -> None:
    async with gateway.client() as client:
        response = await client.put("/v1/search")
        problem(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "reason", "named"),
    [
        ("not json", "BODY_NOT_JSON", "character 0"),
        ('["a list"]', "BODY_NOT_JSON", "object"),
        ("", "BODY_NOT_JSON", "object"),
        (b"\xff\xfe\xfd", "BODY_NOT_JSON", ""),
        (b'{"query": "\xe9"}', "BODY_NOT_JSON", "UTF-8"),
        ('{"query": "a", "wrong": 1}', "FIELD_UNKNOWN", "'wrong'"),
        ('{"query": "a", "filter": {"wrong": 1}}', "FIELD_UNKNOWN", "'filter.wrong'"),
        ("{}", "FIELD_MISSING", "'query'"),
        ('{"query": "   "}', "FIELD_INVALID", "'query'"),
        ('{"query": "a", "top_k": 0}', "FIELD_INVALID", "'top_k'"),
        ('{"query": "a", "top_k": "5"}', "FIELD_INVALID", "'top_k'"),
        ('{"query": "a", "mode": "psychic"}', "FIELD_INVALID", "'mode'"),
    ],
)
async def test_a_wrong_body_is_named_field_by_field(
    gateway: Any, body: str | bytes, reason: str, named: str
) -> None:
    key = await gateway.key("read")
    async with gateway.client(key, **{"Content-Type": "application/json"}) as client:
        found = problem(await client.post("/v1/search", content=body), 400, reason)
    assert named in found["detail"]


async def test_a_search_that_is_not_sent_as_json_is_refused(gateway: Any) -> None:
    content = b'{"query": "a"}'
    async with gateway.client(await gateway.key("read")) as client:
        for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/jsonl"):
            headers = {"Content-Type": kind} if kind else {}
            response = await client.post("/v1/search", content=content, headers=headers)
            problem(response, 400, "BODY_NOT_JSON")
        for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
            headers = {"Content-Type": kind}
            response = await client.post("/v1/search", content=content, headers=headers)
            assert response.status_code == 200, response.text


async def test_a_refused_body_counts_as_one_request(start_gateway: Any) -> None:
    async with (
        start_gateway(key_limit="2/minute") as gateway,
        gateway.client(await gateway.key("read")) as client,
    ):
        problem(await client.post("/v1/search", json={}), 400, "FIELD_MISSING")
        assert (await client.post("/v1/search", json={"query": "a"})).status_code == 200
        problem(await client.post("/v1/search", json={"query": "a"}), 429, "KEY_LIMIT_EXCEEDED")


async def test_a_question_of_100000_characters_is_refused_without_repeating_it(
    gateway: Any,
) -> None:
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.post("/v1/answers", json={"question": "secret" * 20_000})
        found = problem(response, 400, "QUESTION_TOO_LONG")
    assert "8192" in found["detail"]
    assert "secret" not in response.text


async def test_a_body_beyond_the_limit_is_refused(start_gateway: Any) -> None:
    async with start_gateway(max_body_bytes=2048) as gateway:
        key = await gateway.key("read")

        async def pieces() -> Any:
            for _ in range(10):
                yield b" " * 1024

        async with gateway.client(key, **{"Content-Type": "application/json"}) as client:
            announced = await client.post("/v1/search", content=b" " * 4096)
            problem(announced, 413, "BODY_TOO_LARGE")
            problem(await client.post("/v1/search", content=pieces()), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("DOCUMENT_NOT_FOUND", "There is no such document."), 404),
        (BudgetExhausted("BUDGET_EXHAUSTED", "The budget is used up."), 402),
        (Unavailable("RETRIEVAL_UNAVAILABLE", "Try again.", retry_after=7), 503),
    ],
)
async def test_an_error_of_a_service_keeps_its_reason_and_its_status(
    gateway: Any, error: Exception, status: int
) -> None:
    async def fail(_: Any) -> Any:
        raise error

    gateway.services.replies["GetDocument"] = fail
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.get("/v1/documents/doc_x")
        problem(response, status, error.reason)  # type: ignore[attr-defined]
    if status == 503:
        assert response.headers["retry-after"] == "7"


async def test_an_unexpected_error_shows_nothing_of_its_text(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(type(gateway.mesh.projects), "budget", fail)
    async with gateway.client(await gateway.key("read")) as client:
        response = await client.get("/v1/usage")
    problem(response, 500, "INTERNAL")
    assert "hunter2" not in response.text


async def test_a_sane_request_id_is_kept_and_any_other_replaced(gateway: Any) -> None:
    async with gateway.client() as client:
        kept = await client.get("/healthz", headers={"X-Request-ID": "my-request.1:a"})
        assert kept.headers["x-request-id"] == "my-request.1:a"
        for bad in ("short", "a" * 200, "with blank inside", "quote\"'<script>"):
            response = await client.get("/healthz", headers={"X-Request-ID": bad})
            assert response.headers["x-request-id"].startswith("req_")


async def test_every_response_has_the_security_headers(gateway: Any) -> None:
    async with gateway.client() as client:
        for path in ("/", "/docs", "/healthz", "/v1/nothing", "/console/console.js"):
            response = await client.get(path)
            policy = response.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["x-frame-options"] == "DENY"
            assert "server" not in response.headers


async def test_only_allowed_origins_may_call(start_gateway: Any) -> None:
    async with (
        start_gateway(
            CITEMESH_ALLOWED_ORIGINS="https://app.example, https://other.example"
        ) as gateway,
        gateway.client() as client,
    ):
        ask = {"Access-Control-Request-Method": "POST"}
        allowed = {"Origin": "https://other.example"}
        response = await client.options("/v1/search", headers={**ask, **allowed})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        refused = await client.options(
            "/v1/search", headers={**ask, "Origin": "https://evil.example"}
        )
        problem(refused, 403, "ORIGIN_NOT_ALLOWED")
        # Errors carry the header too, or a page could not read why it was refused.
        error = await client.get("/v1/usage", headers=allowed)
        assert error.headers["access-control-allow-origin"] == "https://other.example"


async def test_without_allowed_origins_no_page_may_call(gateway: Any) -> None:
    async with gateway.client() as client:
        response = await client.get("/v1/usage", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_until_the_database_is_there_the_gateway_says_so(start_gateway: Any) -> None:
    async with start_gateway() as gateway, gateway.client() as client:
        gateway.slot.mesh = None
        response = await client.get("/v1/usage")
    problem(response, 503, "GATEWAY_STARTING")
    assert response.headers["retry-after"] == "1"
