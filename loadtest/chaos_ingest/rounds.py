"""One round after another: lives, faults, the wait for the end, the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

import citemesh
from citemesh.retrieval import v1 as retrieval_v1
from loadtest.chaos_ingest import audit
from loadtest.chaos_ingest.client import Client
from loadtest.chaos_ingest.faults import SECOND, Kind, Sabotage, Saboteur
from loadtest.chaos_ingest.files import plans
from loadtest.chaos_ingest.lives import SETTLED, Owner, Record, Seen, keep_looking
from loadtest.chaos_ingest.replica import Replica
from meshkit.ids import new_id
from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.postgres import Cluster
from meshkit.supervisor.state import read

SPREAD_SECONDS = 0.2
"""A document: uploads are spread over the time that the faults take."""
QUIET_SECONDS = 90.0
POLL_SECONDS = 1.0


@dataclass(slots=True)
class Verdict:
    """What a round came to. Everything from `lost` on has to be 0."""

    documents: int = 0
    acknowledged: int = 0
    refused: int = 0
    ready: int = 0
    failed: int = 0
    deleted: int = 0
    lost: int = 0
    """Acknowledged, not deleted, and not there or with another content."""
    duplicated: int = 0
    """A second document or a second activation of the same content."""
    stuck: int = 0
    """Not settled although everything has run for minutes."""
    untrue: int = 0
    """Failed although it can be read, or for a reason that is not its own."""
    unfound: int = 0
    """Ready, and a search for its words does not find it; or finds its former ones."""
    found_after_delete: int = 0
    gaps: int = 0
    chunk_mismatch: int = 0
    fenced_writes: int = 0
    leases_left: int = 0
    unfinished: int = 0
    internal_errors: int = 0
    """Answers INTERNAL: something broke that nobody had thought of."""
    restarts_unasked: int = 0
    kills: int = 0
    freezes: int = 0
    searches: int = 0
    seconds: float = 0.0
    recovery_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    @property
    def bad(self) -> int:
        """How much of what must not be there is."""
        return sum(getattr(self, name) for name in MUST_BE_ZERO)


MUST_BE_ZERO = (
    "lost",
    "duplicated",
    "stuck",
    "untrue",
    "unfound",
    "found_after_delete",
    "gaps",
    "chunk_mismatch",
    "fenced_writes",
    "leases_left",
    "unfinished",
    "internal_errors",
    "restarts_unasked",
)


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh that runs."""

    url: str
    data: DataDirectory

    @property
    def admin_key(self) -> str:
        """Key of the default project, all scopes."""
        return self.data.api_key.read_text().strip()

    async def project(self) -> tuple[str, str]:
        """A new project and a key for it."""
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=60, trust_env=False
        ) as http:
            made = await http.post("/v1/projects", json={"name": new_id("chaos")})
            project = str(made.raise_for_status().json()["id"])
            body = {"project_id": project, "name": "chaos", "scopes": ["read", "write"]}
            key = await http.post("/v1/keys", json=body)
            return project, str(key.raise_for_status().json()["key"])

    def second_worker(self) -> Replica:
        """Another worker of ingestion, not started yet."""
        state = read(self.data.state)
        assert state is not None
        (own,) = (child for child in state.children if child.name == "ingestion")
        assert own.pid is not None
        return Replica(own.pid, self.data.logs / f"{SECOND}.log")

    async def index_differences(self, project: str) -> list[str]:
        """Where the lexical index and Postgres do not agree, as the mesh's reconciler sees it."""
        request = retrieval_v1.ReconcileLexicalIndexRequest(project_id=project, dry_run=True)
        async with citemesh.connect(self.url, self.admin_key) as connected:
            found = await connected.retrieval.ReconcileLexicalIndex(request, timeout=60)
        return [
            f"{each.document_id} v{each.version}: {each.expected_count} chunks in Postgres,"
            f" {each.indexed_count} in the lexical index"
            for each in found.differences
        ] + [f"{each.document_id}: chunks are missing in Postgres" for each in found.incomplete]

    async def postgres(self) -> asyncpg.Connection[Any]:
        """A connection that sees everything."""
        dsn = Cluster.attach(Path(self.data.postgres)).admin_dsn
        return await asyncpg.connect(dsn, timeout=30)


async def run_round(
    mesh: Mesh, documents: int, seed: int, sabotage: Sabotage | None = None
) -> Verdict:
    """Uploads documents while the mesh is sabotaged, and says what became of them."""
    began = time.monotonic()
    project, key = await mesh.project()
    connection = await mesh.postgres()
    await audit.watch(connection)
    await connection.close()
    client, chance = Client(mesh.url, key), random.Random(seed)
    replica = mesh.second_worker()
    await replica.start()
    saboteur = Saboteur(mesh.data, replica, sabotage or Sabotage(), random.Random(seed + 1))
    before = saboteur.restarts()
    records = [Record(plan) for plan in plans(documents, seed)]
    owner, seen = Owner(client, chance), Seen()
    spread = documents * SPREAD_SECONDS
    looking = asyncio.create_task(keep_looking(client, records, random.Random(seed + 2), seen))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(saboteur.round())
            for record in records:
                group.create_task(owner.live(record, chance.uniform(0.0, spread)))
        looking.cancel()
        verdict = await _verdict(mesh, project, client, records, saboteur)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await asyncio.to_thread(replica.stop)
        await client.close()
        connection = await mesh.postgres()
        await audit.unwatch(connection)
        await connection.close()
    after = saboteur.restarts()
    verdict.kills = sum(fault.kind is Kind.KILL for fault in saboteur.faults)
    verdict.freezes = len(saboteur.faults) - verdict.kills
    verdict.restarts_unasked = sum(after.values()) - sum(before.values())
    verdict.restarts_unasked -= sum(
        fault.kind is Kind.KILL and fault.victim != SECOND for fault in saboteur.faults
    )
    verdict.found_after_delete += seen.found_after_delete
    verdict.gaps, verdict.searches = seen.gaps, seen.searches
    verdict.seconds = round(time.monotonic() - began, 1)
    return verdict


async def _verdict(
    mesh: Mesh, project: str, client: Client, records: list[Record], saboteur: Saboteur
) -> Verdict:
    """Waits until the mesh is quiet and compares everybody's story."""
    verdict = Verdict(documents=len(records))
    documents = await _settled(client, records)
    connection = await mesh.postgres()
    try:
        await _quiet(connection, project)
        found = await audit.audit(connection, project)
        verdict.recovery_s = await audit.recoveries(connection, saboteur.faults)
    finally:
        await connection.close()
    for record in records:
        await _judge(client, record, documents.get(record.document_id), verdict)
    known = {record.document_id for record in records}
    strangers = set(documents) - known
    verdict.duplicated += len(strangers) + found.ready_twice + found.same_content
    verdict.duplicated += sum(len(record.other_ids) for record in records)
    differences = await mesh.index_differences(project)
    verdict.problems += differences
    verdict.chunk_mismatch = found.unequal + found.left_behind + len(differences)
    verdict.fenced_writes, verdict.leases_left = found.fenced_writes, found.leases_left
    verdict.unfinished = found.unfinished
    verdict.problems += found.examples
    verdict.problems += [f"nobody uploaded {stranger}" for stranger in strangers]
    verdict.troubles = client.troubles
    verdict.internal_errors = sum(
        count for what, count in client.troubles.items() if " 500 " in what
    )
    return verdict


async def _quiet(connection: asyncpg.Connection[Any], project: str) -> None:
    """Waits until nothing of the project is under way in the background, within limits."""
    for _ in range(int(QUIET_SECONDS / POLL_SECONDS)):
        if not await audit.unfinished(connection, project):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _settled(client: Client, records: list[Record]) -> dict[str, dict[str, Any]]:
    """Every document of the project, once all are settled or patience has ended."""
    until = time.monotonic() + 120.0 + len(records)
    while True:
        documents = await client.documents()
        waiting = [d for d in documents.values() if d["state"] not in SETTLED]
        if not waiting or time.monotonic() > until:
            return documents
        await asyncio.sleep(POLL_SECONDS)


async def _judge(
    client: Client, record: Record, shown: dict[str, Any] | None, verdict: Verdict
) -> None:
    """Counts one document where it belongs."""
    name = f"{record.plan.file.name} ({record.plan.fate})"

    def problem(what: str) -> None:
        verdict.problems.append(f"{name} {record.document_id}: {what}")

    if record.trouble:
        problem(record.trouble)
        verdict.lost += not record.document_id
    if not record.document_id:
        verdict.refused += bool(record.refused)
        return
    verdict.acknowledged += 1
    assert record.current is not None
    if record.deleted_at:
        verdict.deleted += 1
        found = await client.search(record.current.marker)
        if shown is not None or (found and record.document_id in found[0]):
            verdict.found_after_delete += 1
            problem("is there after its deletion")
        return
    if shown is None or shown["version"] < record.version:
        verdict.lost += 1
        problem("is lost" if shown is None else f"is back at version {shown['version']}")
        return
    match shown["state"]:
        case "ready":
            verdict.ready += 1
            if not record.current.readable:
                verdict.untrue += 1
                problem("is ready, and nobody can read it")
            for wrong in await _misfound(client, record):
                verdict.unfound += 1
                problem(wrong)
        case "failed":
            verdict.failed += 1
            error = shown["error"]
            if error["reason"] not in record.current.reasons:
                verdict.untrue += 1
                problem(f"failed: {error['reason']}: {error['detail']}")
        case state:
            verdict.stuck += 1
            problem(f"is {state}, stage {shown['stage']}, {shown['progress']}")


async def _misfound(client: Client, record: Record) -> list[str]:
    """What is wrong with searches for a ready document's word, and for its former one."""
    assert record.current is not None
    wrong = []
    found = await client.search(record.current.marker)
    if found is None or found[0] != {record.document_id}:
        wrong.append(f"a search for its word found {found}")
    if record.current is not record.plan.file:
        former = await client.search(record.plan.file.marker)
        if former is None or former[0]:
            wrong.append(f"a search for its former word found {former}")
    return wrong
