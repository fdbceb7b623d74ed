"""The parts of the supervisor that hold without any process of the mesh."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from meshkit.components import BY_NAME, COMPONENTS, RUNTIME_ROLES
from meshkit.supervisor import ports, state
from meshkit.supervisor.backoff import LONGEST_S, STABLE_S, Backoff
from meshkit.supervisor.console import Console, LogFile, readable
from meshkit.supervisor.database import Access, external
from meshkit.supervisor.environment import Environments, inherited, pick_addresses
from meshkit.supervisor.layout import (
    DataDirectory,
    DirectoryHeld,
    DirectoryLock,
    Holder,
    holder,
)
from meshkit.supervisor.order import stopping_levels


def test_the_first_death_is_forgiven_at_once_and_the_next_ones_slower_and_slower() -> None:
    backoff = Backoff()
    assert [backoff.next_delay(0.1) for _ in range(6)] == [0, 0.5, 1, 2, 4, 8]
    assert max(backoff.next_delay(0.1) for _ in range(10)) == LONGEST_S


def test_a_long_life_makes_a_clean_record() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay(0.1)
    assert backoff.next_delay(STABLE_S) == 0


def test_nobody_stops_before_those_who_call_it() -> None:
    levels = stopping_levels(COMPONENTS)
    position = {name: index for index, level in enumerate(levels) for name in level}
    assert set(position) == set(BY_NAME)
    for component in COMPONENTS:
        for called in component.calls:
            assert position[component.name] < position[called]


def test_a_circle_of_calls_is_refused() -> None:
    from dataclasses import replace

    first, second = COMPONENTS[0], COMPONENTS[1]
    circle = [replace(first, calls=(second.name,)), replace(second, calls=(first.name,))]
    with pytest.raises(ValueError, match="circle"):
        stopping_levels(circle)


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_ports_are_different_and_below_those_the_kernel_gives_to_clients() -> None:
    addresses = pick_addresses("127.0.0.1", 8080)
    numbers = {int(address.rpartition(":")[2]) for address in addresses.values()}
    assert len(numbers) == len(COMPONENTS)
    assert addresses["gateway"] == "127.0.0.1:8080"
    assert all(number in ports.RANGE for number in numbers - {8080})


def data_directory(tmp_path: Path) -> DataDirectory:
    return DataDirectory.at(tmp_path / "data")


def test_a_second_supervisor_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    first = Holder(os.getpid(), "http://127.0.0.1:8080", "2026-11-21T09:00:00+00:00")
    with DirectoryLock(data, first):
        assert holder(data) == first
        with pytest.raises(DirectoryHeld) as caught, DirectoryLock(data, first):
            pass
        text = str(caught.value)
        assert all(part in text for part in (str(first.pid), first.url, first.since))
    assert holder(data) is None


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from meshkit.supervisor.layout import DataDirectory, DirectoryLock, Holder\n"
        "with DirectoryLock(DataDirectory.at(Path(sys.argv[1])), Holder(1, 'u', 's')):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(data.root)], timeout=30)
    assert data.lock.read_text()
    assert holder(data) is None


def test_the_state_that_is_read_is_the_one_that_was_written(tmp_path: Path) -> None:
    written = state.MeshState(1, "http://x", "now", "1.0", "ready", [state.ChildState("a", pid=7)])
    written.write(tmp_path / "state.json")
    assert state.read(tmp_path / "state.json") == written
    (tmp_path / "state.json").write_text('{"pid": 1}')
    assert state.read(tmp_path / "state.json") is None


def environments(tmp_path: Path) -> Environments:
    urls = {
        role.removeprefix("citemesh_"): f"postgresql://{role}:pw-{role}@h/db"
        for role in RUNTIME_ROLES
    }
    return Environments(data_directory(tmp_path), pick_addresses("127.0.0.1", 8080), urls)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_a_process_is_told_its_own_secrets_and_nobody_else_s(
    component: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshkit.components import Component

    assert isinstance(component, Component)
    monkeypatch.setenv("CITEMESH_API_KEY", "ck_secret")
    monkeypatch.setenv("CITEMESH_DATABASE_URL", "postgresql://admin:admin-secret@h/db")
    told = environments(tmp_path).of(component)
    text = json.dumps(told)
    assert "ck_secret" not in text
    assert "admin-secret" not in text
    others = {role for role in RUNTIME_ROLES if role != f"citemesh_{component.service}"}
    assert not any(f"pw-{role}@" in text for role in others)
    assert (f"pw-citemesh_{component.service}@" in text) == component.uses_database
    keys = [value for name, value in told.items() if name.endswith("_SIGNING_KEY")]
    assert [Path(key).stem for key in keys] == ([component.service] if component.signs else [])
    dialled = {name for name in told if name.endswith("_ADDRESS")}
    known = (*component.calls, *component.observes)
    assert dialled == {f"CITEMESH_{name.upper()}_ADDRESS" for name in known}


def test_what_the_user_sets_wins_over_the_defaults_of_an_embedded_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITEMESH_BLOB_URL", "s3://bucket")
    told = environments(tmp_path).of(BY_NAME["ingestion"])
    assert told["CITEMESH_BLOB_URL"] == "s3://bucket"


def test_a_service_is_dialled_where_the_user_says_and_listens_where_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITEMESH_RETRIEVAL_ADDRESS", "127.0.0.1:1")
    told = environments(tmp_path).of(BY_NAME["generation"])
    assert told["CITEMESH_RETRIEVAL_ADDRESS"] == "127.0.0.1:1"
    own = environments(tmp_path).of(BY_NAME["retrieval"])
    assert own["CITEMESH_RETRIEVAL_LISTEN"] != "127.0.0.1:1"


def test_preparations_inherit_no_database_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_RETRIEVAL_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("CITEMESH_API_KEY", "ck_x")
    assert not {"CITEMESH_RETRIEVAL_DATABASE_URL", "CITEMESH_API_KEY"} & set(inherited())


def test_a_role_s_url_is_the_administrator_s_with_another_name_and_password() -> None:
    access = Access("postgresql://admin:p%40ss@db:5433/mesh?sslmode=require", {"citemesh_x": "a/b"})
    assert access.urls() == {"x": "postgresql://citemesh_x:a%2Fb@db:5433/mesh?sslmode=require"}
    assert "p%40ss" not in repr(access)


def test_passwords_for_an_external_database_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITEMESH_DATABASE_URL", "postgresql://admin:pw@db/mesh")
    first, second = external(tmp_path), external(tmp_path)
    assert first is not None
    assert second is not None
    assert first.passwords == second.passwords
    assert set(first.passwords) == set(RUNTIME_ROLES)
    assert (tmp_path / "external.json").stat().st_mode & 0o077 == 0


def test_a_log_file_is_bounded_and_keeps_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.supervisor.console.FILE_BYTES", 10_000)
    log = LogFile(tmp_path / "x.log")
    for number in range(5_000):
        log.write(f"line {number}")
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 25_000
    assert log.tail[-1] == "line 4999"


def test_a_json_line_is_shown_as_a_sentence_and_control_codes_are_not_shown_at_all() -> None:
    line = json.dumps(
        {"event": "started", "level": "info", "timestamp": "2026-11-21T09:00:01Z", "port": 7}
    )
    assert readable(line) == "09:00:01 info    started port=7"
    assert readable("\x1b[2Jgone") == "[2Jgone"
    assert readable('{"not": "a log line"}') == '{"not": "a log line"}'


def test_every_line_on_the_console_says_whose_it_is() -> None:
    out = io.StringIO()
    console = Console(["retrieval", "gateway"], out=out)
    console.child("gateway", "hello")
    console.say("ready")
    assert out.getvalue() == "gateway   | hello\ncitemesh  | ready\n"
