"""What the bench searches in: real text, embedded by the mesh, and enough of it.

Documents go in through REST like anybody's. To reach the size at which indexes
begin to matter, further chunks are written straight to retrieval: their words
are drawn from real chunks, their vectors lie around real vectors, so both
indexes see the distribution they would see with real documents.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from citemesh.retrieval import v1 as retrieval_v1
from loadtest.bench.running import RunningMesh, await_ready, upload
from meshkit.channel import MeshChannel
from meshkit.context import acting_as
from meshkit.identity import Signer
from meshkit.ids import new_id, new_request_id

ROOT = Path(__file__).resolve().parents[2]
FILINGS = ROOT.parent / "shared" / "data" / "pdfqa-kgrag" / "pdfs"
SAMPLES = ROOT / "tests" / "samples"
BATCH = 200
NOISE = 0.4
"""Length of the noise added to a unit vector: two chunks around one vector then have a cosine
of 0.86, the median between a chunk of the filings and its nearest one."""
CHUNKS_PER_DOCUMENT = 400


@dataclass(frozen=True, slots=True)
class Stored:
    """Live chunks and their vectors, row by row."""

    texts: list[str]
    vectors: np.ndarray[Any, np.dtype[np.float32]]


async def stored_chunks(admin_dsn: str, table: str) -> Stored:
    """Every chunk with its vector."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        rows = await connection.fetch(
            f"SELECT c.body, e.embedding::real[] AS vector FROM retrieval.chunk c "  # noqa: S608
            f"JOIN {table} e ON e.chunk_key = c.id"
        )
    finally:
        await connection.close()
    return Stored(
        [row["body"] for row in rows],
        np.array([row["vector"] for row in rows], dtype=np.float32).reshape(len(rows), -1),
    )


def questions(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Different questions: a few consecutive words of a text, and a number of their own."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        words = chance.choice(texts).split()
        start = chance.randrange(max(1, len(words) - 8))
        found.append(f"What is said of {' '.join(words[start : start + 8])} ({seed}-{number})?")
    return found


def document_text(texts: Sequence[str], paragraphs: int, seed: int) -> bytes:
    """A text file of shuffled real sentences that no other seed repeats."""
    chance = random.Random(seed)
    body = [f"{chance.random():.9f} {chance.choice(texts)}" for _ in range(paragraphs)]
    return "\n\n".join([f"# Report {seed}", *body]).encode()


async def grow(mesh: RunningMesh, space: str, real: Stored, total: int) -> None:
    """Adds chunks until the default project has `total` of them."""
    project = _project(mesh)
    signer = Signer.load(mesh.data / "identity" / "ingestion.key")
    chance, noise = random.Random(11), np.random.default_rng(11)
    missing = total - len(real.texts)
    address = mesh.addresses()["retrieval"]
    async with MeshChannel(address, "citemesh.retrieval.v1.RetrievalService") as channel:
        stub = retrieval_v1.RetrievalServiceAsyncStub(channel)
        while missing > 0:
            count = min(CHUNKS_PER_DOCUMENT, missing)
            version = retrieval_v1.DocumentVersion(
                document_id=new_id("doc"), version=1, lease_epoch=1
            )
            chunks = [_synthetic(number, real, chance, noise) for number in range(count)]
            with acting_as(signer.sign_background(project, (), new_request_id())):
                for start in range(0, count, BATCH):
                    await stub.IndexChunks(
                        retrieval_v1.IndexChunksRequest(
                            document=version, space=space, chunks=chunks[start : start + BATCH]
                        ),
                        timeout=60,
                    )
                await stub.ActivateVersion(
                    retrieval_v1.ActivateVersionRequest(
                        document=version, chunk_count=count, title="Synthetic"
                    ),
                    timeout=60,
                )
            missing -= count


def _synthetic(
    number: int, real: Stored, chance: random.Random, noise: np.random.Generator
) -> retrieval_v1.Chunk:
    row = chance.randrange(len(real.texts))
    vector = real.vectors[row]
    step = noise.standard_normal(len(vector)).astype(np.float32)
    vector = vector + NOISE * step / np.linalg.norm(step)
    words = real.texts[row].split()
    chance.shuffle(words)
    text = " ".join(words)
    return retrieval_v1.Chunk(
        ordinal=number,
        text=text,
        location=retrieval_v1.Location(page=1, page_end=1, start=0, end=len(text)),
        vector=(vector / np.linalg.norm(vector)).tolist(),
        token_count=len(words),
    )


def _project(mesh: RunningMesh) -> str:
    with mesh.client() as client:
        token = client.post("/v1/token").raise_for_status().json()["token"]
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims["project"])


def fill(mesh: RunningMesh, limit: int) -> float:
    """Ingests the filings where they are present, the samples otherwise; seconds it took."""
    directory = FILINGS if FILINGS.is_dir() else SAMPLES
    started = time.perf_counter()
    with mesh.client() as client:
        found = [upload(client, p.name, p.read_bytes()) for p in files(directory, limit)]
        for document in found:
            await_ready(client, document)
    return time.perf_counter() - started


def files(directory: Path, limit: int) -> list[Path]:
    """The first documents of a directory by name."""
    kinds = {".pdf", ".docx", ".md", ".html", ".txt"}
    return sorted(path for path in directory.iterdir() if path.suffix in kinds)[:limit]
