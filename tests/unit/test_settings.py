"""Settings: every variable is known, every mistake is named, no secret is shown."""

from __future__ import annotations

import pytest
from pydantic import Field

from meshkit.settings import ServiceSettings, SettingsInvalid, load, visible


class Example(ServiceSettings, service="retrieval"):
    """Settings of an example."""

    depth: int = Field(50, ge=1)
    """Candidates taken from each list."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("CITEMESH_"):
            monkeypatch.delenv(name)


def test_a_service_overrides_what_all_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("CITEMESH_RETRIEVAL_LOG_LEVEL", "DEBUG")
    assert load(Example).log_level == "DEBUG"


def test_a_shared_variable_reaches_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_DATABASE_URL", "postgresql://host/db")
    assert load(Example).database_url.get_secret_value() == "postgresql://host/db"


def test_a_misspelt_variable_stops_the_start_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_RETRIEVAL_DEPHT", "7")
    with pytest.raises(SettingsInvalid, match="CITEMESH_RETRIEVAL_DEPHT"):
        load(Example)


def test_a_wrong_value_stops_the_start_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_RETRIEVAL_DEPTH", "0")
    with pytest.raises(SettingsInvalid, match="CITEMESH_RETRIEVAL_DEPTH"):
        load(Example)


def test_the_address_of_a_component_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_RETRIEVAL_ADDRESS", "127.0.0.1:1")
    assert load(Example).depth == 50


def test_secrets_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_DATABASE_URL", "postgresql://user:hunter2@host/db")
    assert "hunter2" not in str(visible(load(Example)))
