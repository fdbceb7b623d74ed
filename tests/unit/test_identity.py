"""The signed context: what a forger, a thief and a slow clock can and cannot do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest

from meshkit.errors import Unauthenticated
from meshkit.identity import Signer, Verifier, create_keyring
from meshkit.key_files import KeyFileInvalid
from meshkit.project import DEFAULTS, ProjectSettings

CLAIMS = {
    "project_id": "prj_1",
    "principals": ["user:ann", "group:hr"],
    "scopes": ["read"],
    "subject": "key_1",
    "request_id": "req_1",
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keyring(tmp_path, ["gateway", "ingestion"])
    return tmp_path


def reason_of(verifier: Verifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)
    return caught.value.reason


def test_a_context_arrives_as_it_was_signed(keys: Path) -> None:
    signed = Signer.load(keys / "gateway.key").sign(**CLAIMS)
    assert Verifier.load(keys / "keyring.json").verify(signed.token) == signed


def test_a_projects_settings_arrive_and_what_is_not_known_of_them_is_left_out(keys: Path) -> None:
    signer, verifier = Signer.load(keys / "gateway.key"), Verifier.load(keys / "keyring.json")
    settings = ProjectSettings(chunk_tokens=80, fusion="min_max", dense_weight=0.5)
    signed = signer.sign(**CLAIMS, settings=settings)
    assert verifier.verify(signed.token).settings == signed.settings == settings
    assert ProjectSettings.from_json(settings.as_json() | {"later": 1}) == settings
    assert ProjectSettings.from_json({"chunk_tokens": "80", "fusion": 7}) == DEFAULTS
    assert "settings" not in jwt.decode(
        signer.sign(**CLAIMS).token, options={"verify_signature": False}
    )


def test_any_changed_character_is_refused(keys: Path) -> None:
    token = Signer.load(keys / "gateway.key").sign(**CLAIMS).token
    verifier = Verifier.load(keys / "keyring.json")
    for position in range(0, len(token), 7):
        other = "A" if token[position] != "A" else "B"
        forged = token[:position] + other + token[position + 1 :]
        assert reason_of(verifier, forged) == "CONTEXT_INVALID"


class Now:
    """Seconds since 1970, set by hand."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


def test_an_expired_context_is_refused_also_when_it_was_verified_before(keys: Path) -> None:
    now = Now()
    verifier = Verifier.load(keys / "keyring.json", now)
    token = Signer.load(keys / "gateway.key", now).sign(**CLAIMS, seconds=60).token
    verifier.verify(token)
    now.seconds += 60 + 31
    assert reason_of(verifier, token) == "CONTEXT_EXPIRED"


def test_a_context_of_a_clock_that_is_ahead_is_refused_by_name(keys: Path) -> None:
    ahead, now = Now(), Now()
    ahead.seconds += 31
    token = Signer.load(keys / "gateway.key", ahead).sign(**CLAIMS).token
    verifier = Verifier.load(keys / "keyring.json", now)
    assert reason_of(verifier, token) == "CONTEXT_EARLY"
    now.seconds += 1
    assert verifier.verify(token).project_id == "prj_1"


def test_setting_the_clock_of_the_machine_brings_no_expired_context_back(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier.load(keys / "keyring.json")
    expired = Signer.load(keys / "gateway.key").sign(**CLAIMS, seconds=-31).token
    fresh = Signer.load(keys / "gateway.key").sign(**CLAIMS).token
    true = time.time()
    monkeypatch.setattr(time, "time", lambda: true - 3_600)
    assert reason_of(verifier, expired) == "CONTEXT_EXPIRED"
    monkeypatch.setattr(time, "time", lambda: true + 3_600)
    assert verifier.verify(fresh).project_id == "prj_1"


@pytest.mark.parametrize("time_claims", [{"exp": "soon"}, {"exp": None}, {"iat": []}])
def test_a_time_that_is_none_is_refused(keys: Path, time_claims: dict[str, object]) -> None:
    signer = Signer.load(keys / "gateway.key")
    claims = jwt.decode(signer.sign(**CLAIMS).token, options={"verify_signature": False})
    token = jwt.encode(
        claims | time_claims, signer._key, algorithm="EdDSA", headers={"kid": signer.kid}
    )
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_INVALID"


def test_an_expired_context_is_refused_the_first_time(keys: Path) -> None:
    token = Signer.load(keys / "gateway.key").sign(**CLAIMS, seconds=-31).token
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_EXPIRED"


def test_a_clock_that_is_less_than_thirty_seconds_off_is_forgiven(keys: Path) -> None:
    token = Signer.load(keys / "gateway.key").sign(**CLAIMS, seconds=-20).token
    assert Verifier.load(keys / "keyring.json").verify(token).project_id == "prj_1"


def test_the_keys_of_another_mesh_are_worth_nothing(keys: Path, tmp_path: Path) -> None:
    create_keyring(tmp_path / "other", ["gateway"])
    token = Signer.load(tmp_path / "other" / "gateway.key").sign(**CLAIMS).token
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_INVALID"


def test_a_key_cannot_sign_in_another_issuers_name(keys: Path) -> None:
    signer = Signer.load(keys / "ingestion.key")
    signer.issuer = "gateway"
    token = signer.sign(**CLAIMS).token
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_INVALID"


@pytest.mark.parametrize(
    ("issuer", "scope"), [("gateway", "internal"), ("ingestion", "admin"), ("gateway", "root")]
)
def test_no_issuer_grants_a_scope_that_is_not_its_own(keys: Path, issuer: str, scope: str) -> None:
    token = Signer.load(keys / f"{issuer}.key").sign(**{**CLAIMS, "scopes": [scope]}).token
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_INVALID"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_of_another_algorithm_is_refused(keys: Path, algorithm: str) -> None:
    ring = json.loads((keys / "keyring.json").read_text())
    key = None if algorithm == "none" else ring["keys"][0]["x"].ljust(32, "x")
    claims = {"iss": "gateway", "aud": "citemesh", "sub": "x", "iat": 0, "exp": 2**33}
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": ring["keys"][0]["kid"]})
    assert reason_of(Verifier.load(keys / "keyring.json"), token) == "CONTEXT_INVALID"


def test_two_keys_of_one_issuer_overlap_while_they_are_rotated(keys: Path) -> None:
    old = Signer.load(keys / "gateway.key").sign(**CLAIMS).token
    (keys / "gateway.key").unlink()
    create_keyring(keys, ["gateway"])
    new = Signer.load(keys / "gateway.key").sign(**CLAIMS).token
    verifier = Verifier.load(keys / "keyring.json")
    assert verifier.verify(old).issuer == verifier.verify(new).issuer == "gateway"
    ring = json.loads((keys / "keyring.json").read_text())
    retired = jwt.get_unverified_header(old)["kid"]
    ring["keys"] = [key for key in ring["keys"] if key["kid"] != retired]
    (keys / "keyring.json").write_text(json.dumps(ring))
    verifier = Verifier.load(keys / "keyring.json")
    assert reason_of(verifier, old) == "CONTEXT_INVALID"
    assert verifier.verify(new).project_id == "prj_1"


def test_creating_a_keyring_again_changes_nothing(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    create_keyring(keys, ["gateway", "ingestion"])
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_private_keys_are_readable_by_their_owner_only(keys: Path) -> None:
    assert (keys / "gateway.key").stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.key").write_text("hello")
    with pytest.raises(KeyFileInvalid, match=r"bad\.key"):
        Signer.load(tmp_path / "bad.key")
