"""The table of docs/providers.md, row by row and provider by provider, through the real SDKs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.simulator.running import RunningSimulator
from meshkit import deadline
from meshkit.logging import quieten
from meshkit.providers.errors import KINDS, BreakerOpen, ProviderError
from meshkit.providers.gemini import seconds_until_reset
from meshkit.providers.settings import Access
from tests.contract.providers import TARGETS, adapter, use

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
PROVIDERS = ("gemini", "cohere", "anthropic")
KEY = "secret-of-this-test"

ROWS: dict[str, list[dict[str, Any]]] = {
    "rate_limited": [{"kind": "rate_limited"}, {"kind": "rate_limited", "retry_after": 7}],
    "quota_exhausted": [{"kind": "quota_exhausted"}],
    "key_rejected": [{"kind": "key_leaked"}, {"kind": "key_invalid"}],
    "account_blocked": [{"kind": "no_credit"}],
    "overloaded": [{"kind": "overloaded"}],
    "server_failed": [{"kind": "server_error"}],
    "timed_out": [{"kind": "hang", "seconds": 20}, {"kind": "slow_drip", "seconds": 0.5}],
    "network_failed": [{"kind": "reset"}],
    "stream_truncated": [{"kind": "truncated"}],
    "malformed": [
        {"kind": "malformed"},
        {"kind": "wrong_dimension"},
        {"kind": "empty_vector"},
        {"kind": "zero_vector"},
    ],
    "model_unknown": [{"kind": "model_unknown"}],
    "content_blocked": [{"kind": "blocked"}],
    "invalid_request": [{"kind": "invalid_request"}],
}
"""What the simulator is told to do, for each kind of error."""
SLOW_SECONDS = 0.8
"""Patience with a provider that does not get on: enough to reach it on a busy machine."""
IN_STREAM = ("overloaded", "server_error", "rate_limited", "hang", "slow_drip", "reset")
IN_STREAM += ("truncated", "malformed", "blocked")
ONE_WORD = "server_failed"
"""All that Cohere says of a stream that it could not finish."""


def cases() -> list[Any]:
    found = []
    for kind, faults in ROWS.items():
        for fault in faults:
            for provider, operation in TARGETS:
                of_vectors = fault["kind"].endswith(("_vector", "_dimension"))
                if of_vectors and operation != "embed":
                    continue
                # Embeddings and reranks of these two are not filtered.
                if fault["kind"] == "blocked" and operation != "generate":
                    continue
                name = f"{fault['kind']}-{provider}-{operation}"
                name += "-retry_after" if "retry_after" in fault else ""
                found.append(pytest.param(kind, fault, provider, operation, id=name))
    return found


async def failure(
    simulator: RunningSimulator, provider: str, operation: str, seconds: float = 5.0
) -> ProviderError:
    async with adapter(operation, simulator.access(provider, KEY)) as opened:
        with deadline.within(seconds), pytest.raises(ProviderError) as caught:
            await use(operation, opened, seconds)
    return caught.value


@pytest.mark.parametrize(("kind", "fault", "provider", "operation"), cases())
async def test_what_a_provider_sends_is_what_the_table_says(
    simulator: RunningSimulator,
    kind: str,
    fault: dict[str, Any],
    provider: str,
    operation: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulator.fault(provider=provider, **fault)
    slow = kind == "timed_out"
    began = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        quieten()
        error = await failure(simulator, provider, operation, SLOW_SECONDS if slow else 5.0)
    assert error.kind == kind
    assert error.target.provider == provider
    assert error.target.operation == operation
    assert type(error) is KINDS[kind]
    if "retry_after" in fault:
        assert error.retry_after == pytest.approx(7.0, abs=0.5)
    # The SDK asked once: retries are ours to decide.
    assert simulator.counts(provider, operation)["calls"] == 1
    assert time.monotonic() - began < 4.0
    said = f"{error!r} {error} {error.facts()} {error.__cause__!r} {capsys.readouterr()}"
    said += " ".join(record.getMessage() for record in caplog.records)
    assert KEY not in said
    assert "vacation" not in said.lower()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", IN_STREAM)
async def test_a_fault_in_the_middle_of_a_stream_is_named_as_before_it(
    simulator: RunningSimulator, fault: str, provider: str
) -> None:
    simulator.fault(fault, provider=provider, after=3, seconds=2 * SLOW_SECONDS)
    slow = fault in ("hang", "slow_drip")
    error = await failure(simulator, provider, "generate", SLOW_SECONDS if slow else 5.0)
    expected = next(k for k, rows in ROWS.items() if any(row["kind"] == fault for row in rows))
    says_nothing = ("overloaded", "server_error", "rate_limited", "blocked")
    if provider == "cohere" and fault in says_nothing:
        expected = ONE_WORD
    assert error.kind == expected


@pytest.mark.parametrize(
    ("quota", "kind"),
    [
        ({"requests_per_minute": 1}, "rate_limited"),
        ({"tokens_per_minute": 1}, "rate_limited"),
        ({"requests_per_day": 1}, "quota_exhausted"),
    ],
)
@pytest.mark.parametrize("provider", ["gemini", "cohere"])
async def test_a_days_quota_is_told_from_a_minutes(
    simulator: RunningSimulator, provider: str, quota: dict[str, int], kind: str
) -> None:
    simulator.quota(**quota)
    async with adapter("generate", simulator.access(provider)) as model:
        with pytest.raises(ProviderError) as caught:
            for _ in range(2):
                await use("generate", model)
    assert caught.value.kind == kind
    if provider == "gemini":
        longest = 86_400 if kind == "quota_exhausted" else 60
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= longest


async def test_anthropic_says_when_a_minutes_quota_is_full_again(
    simulator: RunningSimulator,
) -> None:
    simulator.quota(requests_per_minute=1)
    async with adapter("generate", simulator.access("anthropic")) as model:
        with pytest.raises(ProviderError) as caught:
            for _ in range(2):
                await use("generate", model)
    assert caught.value.kind == "rate_limited"
    assert caught.value.retry_after is not None
    assert 0 <= caught.value.retry_after <= 60


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_provider_that_nobody_answers_for_is_a_network_failure(
    provider: str, operation: str, simulator: RunningSimulator
) -> None:
    access = simulator.access(provider)
    closed = type(access)(provider, access.key, "http://127.0.0.1:9")
    async with adapter(operation, closed) as opened:
        with pytest.raises(ProviderError) as caught:
            await use(operation, opened)
    assert (caught.value.kind, caught.value.code) == ("network_failed", "refused")


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_name_that_does_not_resolve_is_a_network_failure(
    provider: str, operation: str, simulator: RunningSimulator
) -> None:
    access = simulator.access(provider)
    nowhere = type(access)(provider, access.key, "http://provider.invalid")
    async with adapter(operation, nowhere) as opened:
        with pytest.raises(ProviderError) as caught:
            await use(operation, opened)
    assert (caught.value.kind, caught.value.code) == ("network_failed", "dns")


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_connection_that_ends_without_an_answer_is_a_network_failure(
    provider: str, operation: str
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, adapter(operation, Access(provider, KEY, f"http://127.0.0.1:{port}")) as it:
        with pytest.raises(ProviderError) as caught:
            await use(operation, it)
    assert (caught.value.kind, caught.value.code) == ("network_failed", "disconnected")


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_proxy_of_the_environment_is_gone_through(
    provider: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, adapter(operation, Access(provider, KEY, "http://provider.invalid")) as it:
        with pytest.raises(ProviderError) as caught:
            await use(operation, it)
    assert asked[0].startswith(b"POST http://provider.invalid/")
    assert caught.value.kind == "key_rejected"


@pytest.fixture(scope="module")
def secure() -> Iterator[RunningSimulator]:
    """A simulator that also speaks TLS."""
    with RunningSimulator.start("--tls") as running:
        yield running


@pytest.mark.parametrize(("provider", "operation"), TARGETS)
async def test_a_certificate_that_nobody_signed_is_a_network_failure(
    provider: str, operation: str, secure: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", secure.authority)
    secure.reset()
    async with adapter(operation, secure.secure_access(provider)) as opened:
        await use(operation, opened)
    secure.fault("tls", provider=provider)
    # A connection that is open is not shaken hands with again.
    async with adapter(operation, secure.secure_access(provider)) as opened:
        with pytest.raises(ProviderError) as caught:
            await use(operation, opened)
    assert (caught.value.kind, caught.value.code) == ("network_failed", "tls")


def test_a_gemini_day_ends_at_midnight_in_california() -> None:
    from datetime import UTC, datetime

    winter = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
    summer = datetime(2026, 7, 1, 20, 0, tzinfo=UTC)
    assert seconds_until_reset(winter) == 12 * 3600
    assert seconds_until_reset(summer) == 11 * 3600


def test_the_table_in_the_docs_has_every_row_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", DOCS.read_text("utf-8"), re.MULTILINE)
    # What was not sent anywhere has no row.
    assert rows == list(ROWS) == [kind for kind in KINDS if kind != BreakerOpen.kind]
