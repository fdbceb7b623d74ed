"""The gateway's pure parts: forms, limits, names, keys, readiness."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api_keys import looks_like_key, new_secret
from gateway.bodies import SearchBody
from gateway.counters import Counters
from gateway.edge import request_id
from gateway.form import FormParser, PartBegun, PartData, PartEnded, boundary_of
from gateway.json_web_tokens import REFRESH_SECONDS, KeySet
from gateway.limits import network_of
from gateway.readiness import Readiness
from gateway.routes.search import filter_message
from gateway.settings import GatewaySettings
from meshkit.errors import InvalidInput, MeshError
from meshkit.settings import SettingsInvalid

# ---- forms


@given(
    content=st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 700), max_size=12),
)
def test_a_form_reads_the_same_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    form = (
        b'--B\r\nContent-Disposition: form-data; name="title"\r\n\r\nT\xc3\xa4st\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a;\\"b\\".pdf"\r\n'
        b"Content-Type: application/pdf\r\n\r\n" + content + b"\r\n--B--\r\n"
    )
    if b"\r\n--B" in content:
        return
    edges = sorted({0, len(form), *(cut for cut in cuts if cut < len(form))})
    parser = FormParser(b"B")
    events = [event for start, end in pairwise(edges) for event in parser.feed(form[start:end])]
    assert parser.complete
    begun = [event for event in events if isinstance(event, PartBegun)]
    assert begun == [PartBegun("title", None), PartBegun("file", 'a;"b".pdf')]
    assert sum(isinstance(event, PartEnded) for event in events) == 2
    second = events.index(begun[1])
    read = b"".join(event.data for event in events[second:] if isinstance(event, PartData))
    assert read == content


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_incomplete_but_never_an_accident(garbage: bytes) -> None:
    parser = FormParser(b"boundary")
    with suppress(InvalidInput):
        parser.feed(garbage)
    assert not parser.complete or b"--boundary--" in garbage


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=a", "application/json"],
)
def test_what_is_no_form_has_no_boundary(kind: str) -> None:
    with pytest.raises(InvalidInput):
        boundary_of(kind)


# ---- names and keys


def test_a_request_id_is_kept_only_when_it_is_a_plain_word() -> None:
    assert request_id("abc-123.x:y_z") == "abc-123.x:y_z"
    for bad in (None, "", "short", "line\nbreak123", "x" * 129, "-starts-wrong", "ünïcode-id"):
        assert request_id(bad).startswith("req_")


def test_keys_differ_and_look_like_keys() -> None:
    keys = {new_secret() for _ in range(100)}
    assert len(keys) == 100
    assert all(looks_like_key(key) for key in keys)
    assert not looks_like_key("cmk_short")
    assert not looks_like_key(keys.pop() + "x")


# ---- limits


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_counters_start_anew_after_their_window_and_are_swept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("gateway.counters.time.monotonic", lambda: now)
    counters = Counters()
    assert [await counters.incr("a", 60) for _ in range(3)] == [1, 2, 3]
    now = 1059.0
    assert await counters.get("a") == 3
    assert await counters.get_expiry("a") == pytest.approx(time.time() + 1, abs=0.5)
    now = 1060.0
    assert await counters.get("a") == 0
    assert await counters.incr("a", 60) == 1
    await counters.incr("b", 10)
    now = 1075.0
    counters.sweep()
    assert set(counters.storage) == {"a"}


# ---- settings


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"jwt_jwks": "/keys"}, "JWT_ISSUER"),
        ({"jwt_algorithms": "RS256,HS256"}, "HS256"),
        ({"jwt_algorithms": "none"}, "none"),
        ({"key_limit": "often"}, "often"),
        ({"key_cache_seconds": 31}, "30"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GatewaySettings(**changed)


# ---- keys of an issuer


def test_keys_over_plain_http_are_refused() -> None:
    with pytest.raises(SettingsInvalid):
        KeySet("http://id.example/jwks")


async def test_made_up_key_ids_do_not_make_the_gateway_ask_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jwks.json"
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    file.write_text(json.dumps({"keys": [{**key, "kid": "one"}]}))
    now = 100.0
    monkeypatch.setattr("gateway.json_web_tokens.time.monotonic", lambda: now)
    keys = KeySet(str(file))
    reads = 0
    fetch = keys._fetch

    def counted() -> bytes:
        nonlocal reads
        reads += 1
        return fetch()

    monkeypatch.setattr(keys, "_fetch", counted)
    assert await keys.get("one")
    for number in range(5):
        with pytest.raises(MeshError):
            await keys.get(f"made-up-{number}")
    assert reads == 1
    file.write_text(json.dumps({"keys": [{**key, "kid": "two"}]}))
    now += REFRESH_SECONDS + 1
    assert await keys.get("two"), "a rotated key is found after a while"
    file.unlink()
    now += REFRESH_SECONDS + 1
    with pytest.raises(MeshError):
        await keys.get("three")
    assert await keys.get("two"), "an issuer that is away does not log everyone out"


# ---- readiness


async def test_readiness_asks_all_at_once_and_once_for_many() -> None:
    asked: list[str] = []
    together = asyncio.Event()

    def check(name: str, there: bool) -> Any:
        async def ask() -> bool:
            asked.append(name)
            if len(asked) == 2:
                together.set()
            await together.wait()
            return there

        return ask

    readiness = Readiness()
    readiness.add("a", check("a", False), required=True)
    readiness.add("b", check("b", False), required=False)
    reports = await asyncio.gather(*(readiness.report() for _ in range(20)))
    assert sorted(asked) == ["a", "b"]
    assert reports[0].missing == ["a"]
    assert reports[0].degraded == ["b"]


async def test_a_part_that_does_not_answer_is_missing() -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    readiness = Readiness(timeout=0.05)
    readiness.add("silent", hang, required=True)
    assert (await readiness.report()).missing == ["silent"]


def test_a_date_of_a_filter_reaches_the_services() -> None:
    body = SearchBody.model_validate_json(
        '{"query": "x", "filter": {"activated_after": "2026-01-02T03:04:05+01:00"}}'
    )
    message = filter_message(body.filter)
    assert message is not None
    assert message.activated_after.ToJsonString() == "2026-01-02T02:04:05Z"
    assert not message.HasField("activated_before")
    assert filter_message(SearchBody(query="x").filter) is None
