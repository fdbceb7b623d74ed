"""Rotating signing keys: at no step is a context refused that was good the moment before."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshkit import key_files
from meshkit.cli.app import app
from meshkit.errors import Unauthenticated
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.rotation import OVERLAP_SECONDS, RotationRefused, add, keys, retire, switch


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    create_keyring(tmp_path, ["gateway", "ingestion"])
    return tmp_path


@pytest.fixture
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every look at the clock is a minute later."""
    minutes = itertools.count(time.monotonic(), 60.0)
    monkeypatch.setattr(key_files.time, "monotonic", lambda: next(minutes))
    return


def sign(signer: Signer) -> str:
    return signer.sign(
        project_id="prj_1", principals=[], scopes=["read"], subject="key_1", request_id="req_1"
    ).token


def signers(directory: Path) -> list[tuple[str, bool]]:
    return [(line.issuer, line.signs) for line in keys(directory)]


def refused(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except Unauthenticated:
        return True
    return False


@pytest.mark.usefixtures("_looks_always")
def test_processes_that_run_follow_every_step(directory: Path) -> None:
    signer, verifier = (
        Signer.load(directory / "gateway.key"),
        Verifier.load(directory / "keyring.json"),
    )
    old, first = signer.kid, sign(signer)
    add(directory, "gateway")
    assert not refused(verifier, sign(signer))
    assert signer.follow() == old, "it signs with the old one until the switch"
    kid = switch(directory, "gateway")
    assert signer.follow() == kid != old
    assert not refused(verifier, sign(signer))
    assert not refused(verifier, first), "what the old one had signed is good until it is retired"
    assert retire(directory, "gateway", leaked=True) == [old]
    assert refused(verifier, first)
    assert not refused(verifier, sign(signer))
    assert signers(directory) == [("ingestion", True), ("gateway", True)]


def test_a_key_that_was_just_added_is_known_before_it_is_time_to_look(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(key_files.time, "monotonic", lambda: now)
    verifier = Verifier.load(directory / "keyring.json")
    add(directory, "gateway")
    switch(directory, "gateway")
    token = sign(Signer.load(directory / "gateway.key"))
    assert not refused(verifier, token)


@pytest.mark.usefixtures("_looks_always")
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"keys": [{"kid": "x"}]}'])
def test_a_broken_file_changes_nothing(directory: Path, content: str) -> None:
    signer = Signer.load(directory / "gateway.key")
    verifier = Verifier.load(directory / "keyring.json")
    for name in ("gateway.key", "keyring.json"):
        (directory / name).write_text(content)
    assert not refused(verifier, sign(signer))


@pytest.mark.usefixtures("_looks_always")
def test_nobody_begins_to_sign_with_the_key_of_another(directory: Path) -> None:
    signer = Signer.load(directory / "gateway.key")
    kid = signer.kid
    (directory / "gateway.key").write_bytes((directory / "ingestion.key").read_bytes())
    assert signer.follow() == kid


def test_steps_out_of_order_are_refused(directory: Path) -> None:
    with pytest.raises(RotationRefused, match="add a key first"):
        switch(directory, "gateway")
    with pytest.raises(RotationRefused, match="no key of rerank"):
        add(directory, "rerank")
    add(directory, "gateway")
    with pytest.raises(RotationRefused, match="switch to it"):
        add(directory, "gateway")
    switch(directory, "gateway")
    with pytest.raises(RotationRefused, match="come back in"):
        retire(directory, "gateway")
    long_ago = time.time() - OVERLAP_SECONDS
    os.utime(directory / "gateway.key", (long_ago, long_ago))
    assert len(retire(directory, "gateway")) == 1
    assert retire(directory, "gateway") == []


def test_the_command_line_rotates_and_shows_no_secret(directory: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["identity", *words, "--dir", str(directory)])
        assert result.exit_code == 0, result.output
        return result.output

    secret = key_files.read_file(directory / "gateway.key")["d"]
    said = run("create") + run("add", "gateway") + run("switch", "gateway")
    secrets = [secret, key_files.read_file(directory / "gateway.key")["d"]]
    said += run("list") + run("retire", "gateway", "--leaked") + run("list", "--json")
    assert "6 minutes" in said
    assert not any(found in said for found in secrets)
    assert (directory / "gateway.key").stat().st_mode & 0o777 == 0o600
