"""The drill of docs/operations/backup.md: what comes back from a backup answers as before."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from meshkit.cli.app import app
from meshkit.components import RUNTIME_ROLES
from meshkit.database.bootstrap import bootstrap
from meshkit.ids import new_id
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.postgres import DATABASE, Cluster, RunningPostgres, create_database
from meshkit.supervisor.postgres.binaries import bin_directory
from tests.mesh.conftest import RunningMesh, start_mesh, stop_process, wait_until
from tests.mesh.documents import ingest, settled, upload

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTIONS = (
    "How many days of paid vacation does every employee have in a calendar year?",
    "How long is the probation period at Fenwick Instruments?",
    "What is the melting point of iron?",
)


@dataclass(frozen=True, slots=True)
class Backup:
    """What was kept, and what the mesh said when it was made."""

    directory: Path
    key: str
    document: str
    answers: list[Any]
    too_late: str
    """A document that came after the dump."""

    @property
    def dump(self) -> Path:
        """Of Postgres."""
        return self.directory / "database.dump"


def client(url: str, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


def whole(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """What a request is answered when no stage is left out, as on a busy machine one may be."""
    found: list[Any] = []

    def answered() -> bool:
        found[:] = [http.post(path, json=body).raise_for_status().json()]
        return found[0]["degraded"] == []

    wait_until(answered, 60.0, f"{path} is answered with every stage")
    return found[0]


def said(http: httpx.Client) -> list[Any]:
    """Everything of searches and answers that is about documents."""
    found = []
    for question in QUESTIONS:
        search = whole(http, "/v1/search", {"query": question, "rerank": False})
        answer = whole(http, "/v1/answers", {"question": question, "bypass_cache": True})
        hits = [(hit["chunk_id"], hit["text"], round(hit["score"], 4)) for hit in search["hits"]]
        found.append((hits, answer["answer"], answer["citations"], answer["confidence"]))
    return found


def postgres_program(name: str, *arguments: str) -> None:
    program = bin_directory(None, Path()) / name
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def backup(mesh: RunningMesh, scratch: Path, tmp_path: Path) -> Backup:
    """Of a mesh that goes on working, in the order that the page names."""
    project = mesh.http.post("/v1/projects", json={"name": new_id("backup")}).json()["id"]
    asked = {"name": "backup", "project_id": project, "scopes": ["read", "write"]}
    key = mesh.http.post("/v1/keys", json=asked).json()["key"]
    directory = scratch / "backup"
    directory.mkdir()
    with client(mesh.url, key) as http:
        document = ingest(http, SAMPLES / "employee-handbook.pdf")["id"]
        ingest(http, SAMPLES / "firmware-release-notes.txt")
        answers = said(http)
        url = Cluster.attach(mesh.data.postgres).admin_dsn
        dump = str(directory / "database.dump")
        postgres_program("pg_dump", "--format=custom", f"--dbname={url}", f"--file={dump}")
        (tmp_path / "late.txt").write_text("The lighthouse of Osterby was painted after the dump.")
        too_late = upload(http, tmp_path / "late.txt")["id"]
        settled(http, too_late)
    for kept in (mesh.data.blobs, mesh.data.identity):
        shutil.copytree(kept, directory / kept.name)
    shutil.copy(mesh.data.api_key, directory)
    return Backup(directory, key, document, answers, too_late)


@pytest.fixture
def restored(backup: Backup, scratch: Path) -> Iterator[RunningMesh]:
    """A mesh on a Postgres that knew nothing before; its lexical index is not part of a backup."""
    home = scratch / "restored"
    data = DataDirectory.at(home / "data")
    data.root.mkdir(parents=True)
    for directory in (home, data.root):
        directory.chmod(0o711)
    with RunningPostgres(data.postgres, RUNTIME_ROLES) as postgres:
        cluster = postgres.cluster

        async def roles() -> None:
            await create_database(cluster.maintenance_dsn, DATABASE)
            await bootstrap(cluster.admin_dsn, cluster.passwords)

        asyncio.run(roles())
        arguments = ("--clean", "--if-exists", "--exit-on-error", "--single-transaction")
        postgres_program(
            "pg_restore", *arguments, f"--dbname={cluster.admin_dsn}", str(backup.dump)
        )
    shutil.copytree(backup.directory / "blobs", data.blobs)
    shutil.copytree(backup.directory / "identity", data.identity)
    shutil.copy(backup.directory / "api_key", data.api_key)
    running = start_mesh(home)
    try:
        yield running
    finally:
        running.http.close()
        stop_process(running.process)


def test_a_mesh_from_a_backup_answers_as_the_one_it_was_made_of(
    backup: Backup, restored: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITEMESH_URL", raising=False)
    monkeypatch.setitem(os.environ, "CITEMESH_API_KEY", restored.api_key)
    data = ["--data", str(restored.data.root)]
    for command in (["reindex", "--lexical"], ["reconcile"]):
        result = CliRunner().invoke(app, [*command, *data])
        assert result.exit_code == 0, result.output
    with client(restored.url, backup.key) as http:
        assert said(http) == backup.answers
        # What came after the dump is lost, and is not half there.
        assert http.get(f"/v1/documents/{backup.too_late}").status_code == 404
        late = http.post("/v1/search", json={"query": "lighthouse of Osterby"}).json()
        assert backup.too_late not in {hit["document_id"] for hit in late["hits"]}
        # The source files are back as well.
        again = http.post(f"/v1/documents/{backup.document}:reprocess")
        assert again.status_code == 202, again.text
        assert settled(http, backup.document)["state"] == "ready"
        [first, *_] = said(http)
        assert first[1] == backup.answers[0][1]
