"""Inputs at the edges: large contexts and answers, odd fields, secrets, and unlucky moments."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import grpc
import pytest

from gateway.api_keys import FoundKey, digest, new_secret
from gateway.auth import Authenticator
from gateway.upload import Metadata
from meshkit import channel, server
from meshkit.errors import InvalidInput, Unauthenticated
from meshkit.settings import ServiceSettings, visible
from meshkit.usage import Budget, Entry
from services.guardrail.normalize import readings


class Example(ServiceSettings, service="example"):
    """Settings with an address that may carry a password."""

    counters: str = "redis://:hunter2@host:6379/0"
    """Where counters live."""
    blobs: str = "file:///var/blobs"
    """Where files live."""


def test_a_password_in_any_url_is_not_visible() -> None:
    shown = visible(Example())
    assert shown["counters"] == "redis://***@host:6379/0"
    assert shown["blobs"] == "file:///var/blobs"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("allow", b"[" * 60_000),
        ("labels", b'{"a":' * 10_000),
        ("labels", b'{"year": "\\ud800"}'),
        ("allow", b'["\\udfff"]'),
    ],
)
def test_a_field_nobody_can_store_is_refused_by_name(name: str, raw: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        Metadata().take(name, raw)
    assert caught.value.reason == "FIELD_INVALID"


def test_a_long_word_without_latin_letters_is_read_in_no_time() -> None:
    started = time.perf_counter()
    readings("界" * 30_000)
    assert time.perf_counter() - started < 0.5


def test_only_words_that_mix_scripts_are_folded() -> None:
    assert "ignore" in [reading.text for reading in readings("ignоre")]  # a Cyrillic o
    assert [reading.text for reading in readings("оно")] == ["оно"]


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered() -> None:
    secret = new_secret()
    asked, answer = asyncio.Event(), asyncio.Event()
    revoked = False

    class Keys:
        async def find(self, hashed: bytes) -> FoundKey:
            assert hashed == digest(secret)
            found = FoundKey("key_1", "prj_1", frozenset({"read"}), (), revoked, False, False, None)
            asked.set()
            await answer.wait()
            return found

    class Limits:
        async def failed(self, address: str) -> None:
            assert address

    parts: Any = (Keys(), Mock(), Limits(), None)
    authenticator = Authenticator(*parts, 10.0)
    headers = {"authorization": f"Bearer {secret}"}
    early = asyncio.create_task(authenticator.authenticate(headers, "192.0.2.1"))
    await asked.wait()
    revoked = True
    authenticator.forget()
    answer.set()
    assert (await early).subject == "key_1"
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(headers, "192.0.2.1")
    assert caught.value.reason == "KEY_REVOKED"


async def test_a_ledger_stopped_while_it_writes_loses_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshkit.usage.budget.FLUSH_SECONDS", 0.0)
    begun, proceed = asyncio.Event(), asyncio.Event()
    written: list[str] = []

    class Connection:
        async def execute(self, _: str, _batch: UUID, lines: str, _blocks: str) -> None:
            begun.set()
            await proceed.wait()
            written.append(lines)

        async def __aenter__(self) -> Connection:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    database: Any = Mock(connection=Connection)
    budget = Budget(database)
    budget._note(Entry("prj_1", "rerank", "local", "model", 7, 0, 0, "req_1"))
    running = asyncio.create_task(budget.run())
    await begun.wait()
    running.cancel()
    asyncio.get_running_loop().call_soon(proceed.set)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(written) == 1
    assert "req_1" in written[0]


async def test_a_context_with_many_principals_and_a_large_answer_pass() -> None:
    token = "t" * 100_000
    answer = b"a" * 6_000_000

    async def echo(_: bytes, context: Any) -> bytes:
        found = dict(context.invocation_metadata())
        assert found[channel.CONTEXT_HEADER] == token
        return answer

    handler = grpc.unary_unary_rpc_method_handler(echo)
    running = grpc.aio.server(options=server.options(Example()))
    running.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("example.Example", {"Echo": handler}),)
    )
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    # Health is not served here, so the channel must not ask for it.
    options = [
        pair for pair in channel.options("example.Example") if pair[0] != "grpc.service_config"
    ]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as dialled:
            call: Any = dialled.unary_unary("/example.Example/Echo")
            metadata = ((channel.CONTEXT_HEADER, token),)
            assert await call(b"", metadata=metadata, timeout=5) == answer
    finally:
        await running.stop(None)
