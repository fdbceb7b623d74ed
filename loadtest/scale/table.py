"""A database with one dense table, filled as retrieval would have filled it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from loadtest.scale.vectors import (
    CHUNKS_PER_DOCUMENT,
    DIMENSIONS,
    Corpus,
    Floats,
    project_sizes,
)
from meshkit.components import RUNTIME_ROLES
from meshkit.database.bootstrap import bootstrap
from meshkit.database.dense_index import memory_for, rebuild
from meshkit.database.migrate import migrate
from meshkit.supervisor.postgres import DATABASE, RunningPostgres, create_database

BODY = "Synthetic text of a chunk, about as long as a paragraph. " * 14
MOST_BUILD_MEMORY = 4 * 1024**3
_DOCUMENT = ("project_id", "document_id", "live_version", "lease_epoch", "live_chunks")
_CHUNK = (
    *("project_id", "document_id", "version", "ordinal", "body", "page", "page_end"),
    *("headings", "span_start", "span_end", "section", "token_count", "language", "flags"),
)
_DENSE = ("chunk_key", "project_id", "document_id", "version", "embedding")


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[RunningPostgres]:
    """An embedded Postgres with the schemas of a mesh, as `citemesh up` would have it."""
    with RunningPostgres(directory, RUNTIME_ROLES) as running:
        cluster = running.cluster
        await create_database(cluster.maintenance_dsn, DATABASE)
        await bootstrap(cluster.admin_dsn, cluster.passwords)
        await migrate(cluster.admin_dsn)
        yield running


@dataclass(frozen=True, slots=True)
class Filled:
    """A dense table and what is in it."""

    number: int
    projects: list[str]
    """Largest first; their rows lie one after the other."""
    sizes: list[int]
    vectors: Floats
    """Row by row, as they are stored: at half precision. Row `i` has the key `i + 1`."""
    load_s: float
    build_s: float
    index_mb: float

    def rows_of(self, place: int) -> slice:
        """Where the rows of a project lie."""
        begin = sum(self.sizes[:place])
        return slice(begin, begin + self.sizes[place])


async def fill(owner: asyncpg.Connection[Any], corpus: Corpus, count: int) -> Filled:
    """A space of its own with `count` projects: loaded, then indexed, then added to."""
    await owner.set_type_codec(
        "halfvec", schema="public", encoder=_halfvec, decoder=bytes, format="binary"
    )
    name = f"scale/{corpus.rows}x{count}@{DIMENSIONS}"
    number = await owner.fetchval("SELECT retrieval.ensure_space($1, $2)", name, DIMENSIONS)
    await owner.execute(
        "TRUNCATE retrieval.document, retrieval.chunk, retrieval.project_state RESTART IDENTITY"
    )
    index = await owner.fetchval(
        "SELECT index_name FROM retrieval.dense_index WHERE space = $1", name
    )
    sizes = project_sizes(corpus.rows, count)
    projects = [f"prj_{corpus.rows}_{count}_{place:04d}" for place in range(len(sizes))]
    await owner.execute(f"DROP INDEX {index}")
    started = time.monotonic()
    rows = _rows(projects, sizes)
    vectors = []
    key = 1
    for batch in corpus.batches():
        half = batch.astype(np.float16)
        vectors.append(half)
        here = list(islice(rows, len(batch)))
        await _copy(owner, "document", _DOCUMENT, _documents(here))
        await _copy(owner, "chunk", _CHUNK, (_chunk(*row) for row in here))
        await _copy(
            owner,
            f"dense_{number}",
            _DENSE,
            (
                (key + place, project, document, 1, vector)
                for place, ((project, document, _), vector) in enumerate(
                    zip(here, half, strict=True)
                )
            ),
        )
        key += len(batch)
    await _copy(
        owner,
        "project_state",
        ("project_id", "live_chunks"),
        zip(projects, sizes, strict=True),
    )
    load_s = time.monotonic() - started
    memory = min(MOST_BUILD_MEMORY, memory_for(corpus.rows, DIMENSIONS))
    await owner.execute(f"SET maintenance_work_mem = '{memory // 1024}kB'")
    started = time.monotonic()
    await owner.execute(
        f"CREATE INDEX ON retrieval.dense_{number} "
        "USING hnsw (embedding public.halfvec_cosine_ops)",
        timeout=None,
    )
    build_s = time.monotonic() - started
    await owner.execute("VACUUM (ANALYZE) retrieval.chunk, retrieval.document")
    await owner.execute(f"VACUUM (ANALYZE) retrieval.dense_{number}")
    stored = np.concatenate(vectors).astype(np.float32)
    bytes_ = await owner.fetchval("SELECT bytes FROM retrieval.dense_index WHERE space = $1", name)
    return Filled(number, projects, sizes, stored, load_s, build_s, round(bytes_ / 1e6, 1))


@dataclass(frozen=True, slots=True)
class Kept:
    """What it takes to keep an index that is in use."""

    insert_per_s: float
    """Rows a second that it takes, committed 200 at a time."""
    vacuum_s: float
    """After a tenth of the rows was deleted."""
    reindex_s: float
    """Built anew concurrently, after that."""


async def keep(owner: asyncpg.Connection[Any], url: str, table: Filled, corpus: Corpus) -> Kept:
    """Adds, deletes, cleans up and rebuilds; the table is of no use afterwards."""
    name = f"dense_{table.number}"
    vectors = corpus.questions(table.vectors[:2000], seed=3).astype(np.float16)
    started = time.monotonic()
    for begin in range(0, len(vectors), 200):
        part = vectors[begin : begin + 200]
        rows = ((-1 - begin - place, "prj_other", "doc", 1, row) for place, row in enumerate(part))
        await _copy(owner, name, _DENSE, rows)
    insert_per_s = len(vectors) / (time.monotonic() - started)
    await owner.execute(
        f"DELETE FROM retrieval.{name} WHERE chunk_key % 10 = 0",  # noqa: S608 - our own names
        timeout=None,
    )
    started = time.monotonic()
    await owner.execute(f"VACUUM retrieval.{name}", timeout=None)
    vacuum_s = time.monotonic() - started
    space = await owner.fetchval(
        "SELECT space FROM retrieval.space_table WHERE number = $1", table.number
    )
    rebuilt = await rebuild(url, space, most_memory=MOST_BUILD_MEMORY)
    return Kept(insert_per_s, vacuum_s, rebuilt.seconds)


async def drop(owner: asyncpg.Connection[Any], table: Filled) -> None:
    """Gives the disk back."""
    await owner.execute(f"DROP TABLE retrieval.dense_{table.number}")


def _rows(projects: list[str], sizes: list[int]) -> Iterator[tuple[str, str, int]]:
    """Project, document and ordinal of every row, in order."""
    for project, size in zip(projects, sizes, strict=True):
        for place in range(size):
            yield project, f"doc_{place // CHUNKS_PER_DOCUMENT:06d}", place % CHUNKS_PER_DOCUMENT


def _documents(rows: list[tuple[str, str, int]]) -> Iterator[tuple[Any, ...]]:
    for project, document, ordinal in rows:
        if ordinal == 0:
            yield project, document, 1, 1, CHUNKS_PER_DOCUMENT


def _chunk(project: str, document: str, ordinal: int) -> tuple[Any, ...]:
    where = (project, document, 1, ordinal, BODY, 1, 1)
    return (*where, [], 0, len(BODY), "", 190, "en", [])


async def _copy(owner: Any, table: str, columns: tuple[str, ...], records: Any) -> None:
    await owner.copy_records_to_table(
        table, schema_name="retrieval", columns=columns, records=records, timeout=None
    )


def _halfvec(vector: Any) -> bytes:
    """Pgvector's binary form: length, unused, half-precision values, big-endian."""
    values: bytes = vector.astype(">f2").tobytes()
    return len(vector).to_bytes(2, "big") + b"\0\0" + values
