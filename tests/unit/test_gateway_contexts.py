"""A caller's context is signed for a while of requests, each with its own name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.auth import Caller
from gateway.contexts import REUSED_SECONDS, Contexts
from meshkit.identity import REQUEST_SECONDS, Signer, Verifier, create_keyring
from meshkit.project import ProjectSettings

ANN = Caller("key_ann", "prj_1", ("user:ann",), frozenset({"read"}), None)


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def contexts(tmp_path: Path, clock: Clock) -> Contexts:
    create_keyring(tmp_path, ["gateway"])
    return Contexts(Signer.load(tmp_path / "gateway.key", clock), clock)


def test_requests_of_a_caller_share_a_signature_and_keep_their_names(contexts: Contexts) -> None:
    first, second = contexts.of(ANN, "req_first"), contexts.of(ANN, "req_second")
    assert first.token == second.token
    assert (first.request_id, second.request_id) == ("req_first", "req_second")


def test_whatever_differs_about_a_caller_is_signed_anew(contexts: Contexts) -> None:
    token = contexts.of(ANN, "req_first").token
    others = [
        replace(ANN, project_id="prj_2"),
        replace(ANN, principals=("user:bob",)),
        replace(ANN, scopes=frozenset({"read", "write"})),
        replace(ANN, subject="key_other"),
        replace(ANN, settings=ProjectSettings(fusion="min_max")),
    ]
    assert token not in {contexts.of(other, "req_first").token for other in others}


def test_a_signature_is_renewed_long_before_it_ends(contexts: Contexts, clock: Clock) -> None:
    first = contexts.of(ANN, "req_first")
    clock.now += REUSED_SECONDS - 1
    again = contexts.of(ANN, "req_again")
    assert again.token == first.token
    assert again.expires_at - clock.now >= REQUEST_SECONDS - REUSED_SECONDS
    clock.now += 1
    assert contexts.of(ANN, "req_later").token != first.token


def test_a_clock_that_was_set_back_reuses_nothing(contexts: Contexts, clock: Clock) -> None:
    first = contexts.of(ANN, "req_first")
    clock.now -= 100
    assert contexts.of(ANN, "req_again").token != first.token


def test_a_context_does_not_outlive_its_callers_credential(
    contexts: Contexts, clock: Clock
) -> None:
    guest = replace(ANN, expires_at=clock.now + 12)
    assert contexts.of(guest, "req_first").expires_at == clock.now + 12
    clock.now += 5
    assert contexts.of(guest, "req_again").expires_at == clock.now + 7


def test_a_reused_context_is_one_the_services_accept(contexts: Contexts, tmp_path: Path) -> None:
    contexts.of(ANN, "req_first")
    seen = Verifier.load(tmp_path / "keyring.json").verify(contexts.of(ANN, "req_second").token)
    assert (seen.project_id, seen.principals, seen.scopes) == ("prj_1", ("user:ann",), {"read"})
