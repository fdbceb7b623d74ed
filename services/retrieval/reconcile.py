"""Comparing Postgres with the lexical index, and mending the index where they differ.

The outbox keeps the two in step. This looks whether it did: after a disk that lied, an index
restored from a backup, a segment that was lost, or an error of ours. Postgres is right; what the
index lacks, has too much of or should not have is queued in the outbox, which makes the index
agree. Chunks that Postgres itself lacks cannot be mended from here: their documents are named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from meshkit.database.pool import Database
from meshkit.errors import Unavailable
from meshkit.logging import logger
from meshkit.telemetry import metrics
from services.retrieval.lexical import VersionKey
from services.retrieval.outbox import LexicalProjection

log = logger(__name__)

EXPECTED = """
    SELECT v.document_id, v.version, (
        SELECT count(*) FROM retrieval.chunk c WHERE c.project_id = $1
        AND c.document_id = v.document_id AND c.version = v.version) AS chunks
    FROM retrieval.document_version v WHERE v.project_id = $1
"""
WAITING = """
    SELECT DISTINCT document_id, version FROM retrieval.lexical_outbox WHERE project_id = $1
"""
# Live documents that hold fewer or more chunks than were acknowledged.
INCOMPLETE = """
    SELECT d.document_id FROM retrieval.document d
    WHERE d.project_id = $1 AND d.live_version IS NOT NULL AND d.live_chunks <> (
        SELECT count(*) FROM retrieval.chunk c WHERE c.project_id = $1
        AND c.document_id = d.document_id AND c.version = d.live_version)
    ORDER BY d.document_id
"""
QUEUE = (
    "INSERT INTO retrieval.lexical_outbox (project_id, document_id, version)"
    " SELECT $1, * FROM unnest($2::text[], $3::bigint[])"
)

_found = metrics.counter("citemesh.retrieval.reconciled")


@dataclass(frozen=True, slots=True)
class Difference:
    """A version about which the two do not agree."""

    key: VersionKey
    expected: int
    """Chunks that Postgres has; 0 when the index should not know the version."""
    indexed: int
    """Chunks that the index has."""

    @property
    def kind(self) -> str:
        """`missing`, `surplus` or `unequal`."""
        if not self.indexed:
            return "missing"
        return "unequal" if self.expected else "surplus"


@dataclass(slots=True)
class Findings:
    """What a comparison found, and did."""

    projects: int = 0
    versions: int = 0
    """Versions compared."""
    differences: list[Difference] = field(default_factory=list)
    repaired: int = 0
    """Differences that are none any more."""
    incomplete: list[tuple[str, str]] = field(default_factory=list)
    """Project and document of live documents with other chunks in Postgres than acknowledged:
    they have to be processed anew."""

    @property
    def clean(self) -> bool:
        """Whether nothing is left to do."""
        return self.repaired == len(self.differences) and not self.incomplete


class Reconciler:
    """Compares and mends; one comparison at a time.

    Args:
        database: As the runtime role.
        projection: The index and the work that keeps it true.
    """

    def __init__(self, database: Database, projection: LexicalProjection) -> None:
        self._database = database
        self._projection = projection
        self._turn = asyncio.Lock()

    async def run(self, every_seconds: float) -> None:
        """Compares now and again and again, until cancelled."""
        while True:
            try:
                findings = await self.reconcile()
            except Unavailable as error:
                log.warning("comparison with the lexical index waits", reason=error.reason)
            else:
                tell(findings)
            await asyncio.sleep(every_seconds)

    async def reconcile(self, *, project_id: str = "", repair: bool = True) -> Findings:
        """Compares one project, or all, and mends what differs.

        Raises:
            Unavailable: DATABASE_UNAVAILABLE.
        """
        async with self._turn:
            findings = Findings()
            for project in [project_id] if project_id else sorted(await self._projects()):
                await self._compare(project, findings, repair=repair)
            return findings

    async def _projects(self) -> set[str]:
        async with self._database.connection() as connection:
            rows = await connection.fetch("SELECT * FROM retrieval.indexed_projects() AS id")
        return {row["id"] for row in rows} | await self._projection.index.projects()

    async def _compare(self, project_id: str, findings: Findings, *, repair: bool) -> None:
        expected, differences = await self._look(project_id)
        if differences:
            # What changed between the two looks at the index and at Postgres agrees by now.
            await self._settle(differences)
            _, again = await self._look(project_id)
            seen = {difference.key for difference in differences}
            differences = [difference for difference in again if difference.key in seen]
        findings.projects += 1
        findings.versions += expected
        findings.differences += differences
        async with self._database.project(project_id) as connection:
            rows = await connection.fetch(INCOMPLETE, project_id)
        findings.incomplete += [(project_id, row["document_id"]) for row in rows]
        if differences and repair:
            await self._queue(project_id, differences)
            await self._settle(differences)
            _, left = await self._look(project_id)
            still = {difference.key for difference in left}
            findings.repaired += sum(found.key not in still for found in differences)

    async def _look(self, project_id: str) -> tuple[int, list[Difference]]:
        """Versions that Postgres wants indexed, and about which the index does not agree.

        What still waits in the outbox is no difference: it is about to be done.
        """
        indexed = await self._projection.index.inventory(project_id)
        async with self._database.project(project_id) as connection:
            wanted = await connection.fetch(EXPECTED, project_id)
            waiting = await connection.fetch(WAITING, project_id)
        expected = {_key(project_id, row): row["chunks"] for row in wanted}
        queued = {_key(project_id, row) for row in waiting}
        # The purge of a project waits under this key; until then anything may be left of it.
        if VersionKey(project_id, "", 0) in queued:
            return len(expected), []
        keys = sorted((expected.keys() | indexed.keys()) - queued, key=_order)
        found = [Difference(key, expected.get(key, 0), indexed.get(key, 0)) for key in keys]
        return len(expected), [each for each in found if each.expected != each.indexed]

    async def _settle(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            await self._projection.reach(difference.key)

    async def _queue(self, project_id: str, differences: list[Difference]) -> None:
        async with self._database.project(project_id) as connection:
            await connection.execute(
                QUEUE,
                project_id,
                [difference.key.document_id for difference in differences],
                [difference.key.version for difference in differences],
            )


def tell(findings: Findings) -> None:
    """Says in log and metrics what was found."""
    for difference in findings.differences:
        _found.add(1, {"kind": difference.kind})
        log.error(
            "lexical index differed from Postgres",
            kind=difference.kind,
            project_id=difference.key.project_id,
            document_id=difference.key.document_id,
            version=difference.key.version,
            expected=difference.expected,
            indexed=difference.indexed,
        )
    for project_id, document_id in findings.incomplete:
        _found.add(1, {"kind": "incomplete"})
        log.error(
            "chunks of a live document are gone; reprocess it",
            project_id=project_id,
            document_id=document_id,
        )
    log.info(
        "lexical index compared",
        versions=findings.versions,
        differences=len(findings.differences),
        repaired=findings.repaired,
        incomplete=len(findings.incomplete),
    )


def _key(project_id: str, row: Any) -> VersionKey:
    return VersionKey(project_id, row["document_id"], row["version"])


def _order(key: VersionKey) -> tuple[str, int]:
    return key.document_id, key.version
