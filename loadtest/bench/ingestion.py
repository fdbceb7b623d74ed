"""Ingestion as its users feel it.

How soon an upload is answered and a document can be found, how far behind the bare embedder it
stays, and what questions asked meanwhile pay for it.

`make bench` runs this after its other measurements; `python -m loadtest.bench.ingestion` alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench import corpus
from loadtest.bench.corpus import document_text, questions
from loadtest.bench.kernels import Kernels, open_kernels
from loadtest.bench.running import RunningMesh, await_ready, read_chunks, running_mesh, upload
from loadtest.bench.statistics import percentile
from meshkit.supervisor.postgres import Cluster

UPLOAD_BYTES = 20_000_000
UPLOAD_REPEATS = 7
SMALL_CHUNKS, SMALL_REPEATS = 100, 5
LARGE_CHUNKS, LARGE_REPEATS = 1000, 3
ASKED_AT_REST = 60
"""Questions of each block at rest; those of a block under load are as many as it has time for."""
PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class Figures:
    """What was measured."""

    upload_ms: list[float]
    """Until a file of 20 MB was acknowledged."""
    small_s: list[float]
    """Until documents of about 100 chunks were ready, scaled to 100."""
    large_s: list[float]
    """The same for 1,000."""
    ratios: list[float]
    """Chunks a second of the large documents, of the bare embedder's with the same chunks."""
    rest_ms: list[float]
    """Answers while nothing is ingested."""
    busy_ms: list[float]
    """Answers while a large document is ingested."""


def upload_once(client: httpx.Client, number: int) -> float:
    """Milliseconds until 20 MB are acknowledged; a file that nobody has to read afterwards."""
    noise = random.Random(number).randbytes(UPLOAD_BYTES - 9)
    started = time.perf_counter()
    document = upload(client, f"scan-{number}.pdf", b"%PDF-1.7\n" + noise)
    took = (time.perf_counter() - started) * 1e3
    client.delete(f"/v1/documents/{document}").raise_for_status()
    return took


def ingest_once(
    client: httpx.Client, texts: list[str], chunks: int, seed: int
) -> tuple[float, str]:
    """Seconds until a document of about so many chunks is ready, scaled to them; its id."""
    content = document_text(texts, paragraphs=chunks, seed=seed)
    started = time.perf_counter()
    document = upload(client, f"report-{seed}.md", content)
    state = await_ready(client, document)
    return (time.perf_counter() - started) * chunks / state["chunk_count"], document


def ask(client: httpx.Client, question: str) -> float:
    """Milliseconds of one whole answer."""
    started = time.perf_counter()
    client.post("/v1/answers", json={"question": question}).raise_for_status()
    return (time.perf_counter() - started) * 1e3


def ask_meanwhile(mesh: RunningMesh, asked: list[str], until: threading.Event) -> list[float]:
    """Milliseconds of answers, one after the other, until told to stop."""
    took = []
    with mesh.client() as client:
        for question in asked:
            if until.is_set():
                break
            took.append(ask(client, question))
            time.sleep(PAUSE_SECONDS)
    return took


async def measure(mesh: RunningMesh, kernels: Kernels, texts: list[str]) -> Figures:
    """Everything, what is compared interleaved with what it is compared with."""
    found = Figures([], [], [], [], [], [])
    asked = iter(questions(texts, 4000, seed=31))

    def some(count: int) -> list[str]:
        return [next(asked) for _ in range(count)]

    with mesh.client() as client:
        found.upload_ms = [upload_once(client, number) for number in range(UPLOAD_REPEATS)]
        for number in range(SMALL_REPEATS):
            seconds, _ = ingest_once(client, texts, SMALL_CHUNKS, 2000 + number)
            found.small_s.append(seconds)
        for number in range(LARGE_REPEATS):
            rest = ask_meanwhile(mesh, some(ASKED_AT_REST), threading.Event())
            found.rest_ms += rest
            # Alone, for its own time; then again with questions meanwhile.
            seconds, document = await asyncio.to_thread(
                ingest_once, client, texts, LARGE_CHUNKS, 3000 + number
            )
            found.large_s.append(seconds)
            chunks = read_chunks(client, document)
            bare = len(chunks) / await kernels.embed_all(chunks)
            found.ratios.append(LARGE_CHUNKS / seconds / bare)
            done = threading.Event()
            asking = asyncio.create_task(asyncio.to_thread(ask_meanwhile, mesh, some(600), done))
            await asyncio.to_thread(ingest_once, client, texts, LARGE_CHUNKS, 4000 + number)
            done.set()
            found.busy_ms += await asking
    return found


def report(found: Figures) -> dict[str, Any]:
    """Prints a table and returns the JSON object."""
    rest, busy = percentile(found.rest_ms, 0.95), percentile(found.busy_ms, 0.95)
    figures = {
        "upload_20mb_p50_ms": round(percentile(found.upload_ms, 0.5), 1),
        "upload_20mb_max_ms": round(max(found.upload_ms), 1),
        "chunks_100_s": round(percentile(found.small_s, 0.5), 2),
        "chunks_1000_s": round(percentile(found.large_s, 0.5), 2),
        "ratio_1000": round(percentile(found.ratios, 0.5), 3),
        "answer_p95_at_rest_ms": round(rest, 1),
        "answer_p95_meanwhile_ms": round(busy, 1),
        "answer_p95_ratio": round(busy / rest, 3),
        "answers_meanwhile": len(found.busy_ms),
    }
    goals = {
        "upload_20mb_p50_ms": "< 300",
        "chunks_100_s": "<= 3",
        "chunks_1000_s": "<= 20",
        "ratio_1000": ">= 0.8",
        "answer_p95_ratio": "<= 1.5",
    }
    print("\ningestion")
    for name, value in figures.items():
        print(f"{name:28s} {value:>10}  {goals.get(name, '')}")
    return figures


async def _alone(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="citemesh-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # noqa: ASYNC240 - nothing else runs yet
        with running_mesh(home / "data", {}) as mesh:
            corpus.fill(mesh, options.filings)
            cluster = Cluster.attach(home / "data" / "postgres")
            async with open_kernels(cluster.admin_dsn) as kernels:
                real = await corpus.stored_chunks(cluster.admin_dsn, kernels.table)
                return report(await measure(mesh, kernels, real.texts))


def main() -> None:
    """This part of the bench alone."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.ingestion")
    parser.add_argument("--filings", type=int, default=3, help="real documents ingested first")
    print(json.dumps(asyncio.run(_alone(parser.parse_args()))))


if __name__ == "__main__":
    main()
