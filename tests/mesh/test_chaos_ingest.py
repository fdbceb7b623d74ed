"""A short form of `make chaos-ingest`: a few faults, every promise."""

from __future__ import annotations

import pytest

from loadtest.chaos_ingest.faults import Kind, Sabotage
from loadtest.chaos_ingest.rounds import MUST_BE_ZERO, Mesh, run_round
from tests.mesh.conftest import RunningMesh

SHORT = Sabotage(
    faults=(
        ("ingestion", Kind.KILL),
        ("ingestion", Kind.FREEZE),
        ("ingestion_2", Kind.KILL),
        ("embedding_bulk", Kind.KILL),
        ("retrieval", Kind.KILL),
        ("postgres", Kind.KILL),
    ),
    pause_seconds=(0.2, 0.8),
    frozen_seconds=(7.0, 7.5),
    recovery_seconds=3.0,
)


@pytest.mark.slow
async def test_no_fault_loses_doubles_or_holds_up_an_acknowledged_document(
    mesh: RunningMesh,
) -> None:
    verdict = await run_round(Mesh(mesh.url, mesh.data), documents=40, seed=3, sabotage=SHORT)
    wrong = {name: count for name in MUST_BE_ZERO if (count := getattr(verdict, name))}
    assert (wrong, verdict.problems) == ({}, [])
    assert verdict.acknowledged == verdict.ready + verdict.failed + verdict.deleted
    assert (verdict.kills, verdict.freezes) == (5, 1)
    assert verdict.ready >= 20
    assert all(seconds <= 10.0 for seconds in verdict.recovery_s)
