"""`python -m loadtest.bench`: one run, a readable table, one JSON object as the last line."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench import corpus, ingestion
from loadtest.bench.kernels import RERANKED, SPACE, Kernels, open_kernels
from loadtest.bench.running import (
    RawClient,
    RunningMesh,
    await_ready,
    read_chunks,
    running_mesh,
    upload,
)
from loadtest.bench.statistics import Summary, percentile, summary
from meshkit.supervisor.postgres import Cluster

TRACING = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
ANSWER_EVERY = 8
IDLE_SECONDS = 15.0
THROUGHPUT_SECONDS = 10.0


@dataclass(slots=True)
class Samples:
    """Milliseconds, one list a thing measured."""

    floor: list[float]
    embed: list[float]
    dense: list[float]
    lexical: list[float]
    search: list[float]
    cached: list[float]
    reranked: list[float]
    rerank_floor: list[float]
    first_token: list[float]
    answer: list[float]


def search_once(
    client: RawClient, query: str, *, rerank: bool, cached: bool = False
) -> tuple[float, list[str]]:
    """Milliseconds of a search through REST, and the texts found."""
    body = {"query": query, "top_k": 10, "rerank": rerank, "bypass_cache": not cached}
    took, found = client.post("/v1/search", body)
    if found["degraded"] and not rerank:
        raise RuntimeError(f"a search was degraded: {found['degraded']}")
    return took, [hit["text"] for hit in found["hits"]]


def answer_once(client: httpx.Client, question: str) -> tuple[float, float]:
    """Milliseconds to the first token of an answer through REST, and to its end."""
    started = time.perf_counter()
    first = 0.0
    with client.stream("POST", "/v1/answers", json={"question": question, "stream": True}) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line == "event: delta" and not first:
                first = (time.perf_counter() - started) * 1e3
            if line == "event: error":
                raise RuntimeError("an answer ended in an error")
    return first, (time.perf_counter() - started) * 1e3


async def measure_latency(
    mesh: RunningMesh, kernels: Kernels, texts: list[str], rounds: int
) -> Samples:
    """Floor, search, reranked search and answer, one after the other, round after round."""
    found = Samples([], [], [], [], [], [], [], [], [], [])
    asked = iter(corpus.questions(texts, rounds * 4 + 40, seed=1))
    with mesh.client() as web, mesh.raw_client() as client:
        for _ in range(10):
            search_once(client, next(asked), rerank=True)
            await kernels.search(next(asked))
        for number in range(rounds):
            bare = await kernels.search(next(asked))
            found.floor.append(bare.floor)
            found.embed.append(bare.embed)
            found.dense.append(bare.dense)
            found.lexical.append(bare.lexical)
            query = next(asked)
            found.search.append(search_once(client, query, rerank=False)[0])
            # Asked twice with the cache: the first time fills it.
            search_once(client, query, rerank=False, cached=True)
            found.cached.append(search_once(client, query, rerank=False, cached=True)[0])
            if number % ANSWER_EVERY == 0:
                query = next(asked)
                took, passages = search_once(client, query, rerank=True)
                found.reranked.append(took)
                found.rerank_floor.append(await kernels.rerank(query, passages[:RERANKED]))
                first, total = answer_once(web, next(asked))
                found.first_token.append(first)
                found.answer.append(total)
    return found


def throughput(mesh: RunningMesh, texts: list[str], clients: int, seed: int) -> float:
    """Searches a second with some clients that each wait for their answer."""
    until = time.monotonic() + THROUGHPUT_SECONDS

    def ask(number: int) -> int:
        done = 0
        asked = corpus.questions(texts, 4000, seed=seed + number)
        with mesh.raw_client() as client:
            while time.monotonic() < until:
                search_once(client, asked[done], rerank=False)
                done += 1
        return done

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        total = sum(pool.map(ask, range(clients)))
    return total / (time.monotonic() - started)


async def measure_ingest(
    mesh: RunningMesh, kernels: Kernels, texts: list[str], repeats: int
) -> tuple[list[float], list[float]]:
    """Chunks a second through upload to ready, and through the bare embedder, in turn."""
    through, bare = [], []
    with mesh.client() as client:
        for number in range(repeats):
            content = corpus.document_text(texts, paragraphs=150, seed=1000 + number)
            started = time.perf_counter()
            document = upload(client, f"report-{number}.md", content)
            state = await asyncio.to_thread(await_ready, client, document)
            took = time.perf_counter() - started
            through.append(state["chunk_count"] / took)
            chunks = read_chunks(client, document)
            bare.append(len(chunks) / await kernels.embed_all(chunks))
    return through, bare


def measure_idle(mesh: RunningMesh) -> dict[str, float]:
    """Share of one core and megabytes (proportional set size) of the whole mesh at rest."""
    processes = mesh.processes()

    def cpu() -> float:
        times = [process.cpu_times() for process in processes if process.is_running()]
        return sum(found.user + found.system for found in times)

    before, started = cpu(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    share = (cpu() - before) / (time.monotonic() - started)
    memory = sum(process.memory_full_info().pss for process in processes)
    return {"cpu_share": round(share, 4), "mb": round(memory / 1e6, 1)}


def row(name: str, found: Summary) -> str:
    """A line of the table."""
    return f"{name:34s} {found}  n={found.count}"


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    with tempfile.TemporaryDirectory(prefix="citemesh-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # noqa: ASYNC240 - nothing else runs yet
        data = home / "data"
        with running_mesh(data, TRACING) as mesh:
            idle = measure_idle(mesh)
            filled = corpus.fill(mesh, options.filings)
            cluster = Cluster.attach(data / "postgres")
            async with open_kernels(cluster.admin_dsn) as kernels:
                real = await corpus.stored_chunks(cluster.admin_dsn, kernels.table)
                bare_seconds = await kernels.embed_all(real.texts)
                print(f"{len(real.texts)} real chunks, growing to {options.chunks}", flush=True)
                await corpus.grow(mesh, SPACE, real, options.chunks)
                everything = await corpus.stored_chunks(cluster.admin_dsn, kernels.table)
                await kernels.fill(everything.texts)
                latency = await measure_latency(mesh, kernels, real.texts, options.rounds)
                one = throughput(mesh, real.texts, 1, seed=100)
                many = throughput(mesh, real.texts, 16, seed=200)
                through, bare = await measure_ingest(mesh, kernels, real.texts, options.repeats)
                figures = await ingestion.measure(mesh, kernels, real.texts)
    result = report(options, latency, one, many, through, bare, idle)
    result["ingest"] |= ingestion.report(figures)
    # The real documents, read and cut as well, beside their chunks through the bare embedder.
    result["ingest"]["ratio_filings"] = round(bare_seconds / filled, 3)
    print(f"{'ratio of the filings':28s} {result['ingest']['ratio_filings']:>10}  >= 0.8")
    return result


def report(
    options: argparse.Namespace,
    latency: Samples,
    one: float,
    many: float,
    through: list[float],
    bare: list[float],
    idle: dict[str, float],
) -> dict[str, Any]:
    """Prints the table and returns the JSON object."""
    floor, search = summary(latency.floor), summary(latency.search)
    cached = summary(latency.cached)
    reranked, rerank_floor = summary(latency.reranked), summary(latency.rerank_floor)
    first, answer = summary(latency.first_token), summary(latency.answer)
    print(f"\nmilliseconds: median [95 % interval] and 95th percentile; {options.chunks} chunks")
    print(row("bare embed", summary(latency.embed)))
    print(row("bare dense lookup", summary(latency.dense)))
    print(row("bare lexical lookup", summary(latency.lexical)))
    print(row("floor (embed + slower lookup)", floor))
    print(row("search through REST", search))
    print(row("search, query embedded already", cached))
    print(row(f"bare cross-encoder, {RERANKED} windows", rerank_floor))
    print(row("search + rerank through REST", reranked))
    print(row("answer, first token", first))
    print(row("answer, whole", answer))
    ratios = [mesh / kernel for mesh, kernel in zip(through, bare, strict=True)]
    ratio = percentile(ratios, 0.5)
    print(f"\nsearches a second: {one:.1f} with one client, {many:.1f} with sixteen")
    print(
        f"ingestion: {percentile(through, 0.5):.1f} chunks/s, bare embedder "
        f"{percentile(bare, 0.5):.1f}; ratio {ratio:.3f} (min {min(ratios):.3f})"
    )
    print(f"idle: {idle['cpu_share'] * 100:.2f} % of one core, {idle['mb']:.0f} MB\n")
    kernels_ms = floor.p50 + rerank_floor.p50
    return {
        "search": {
            "p50_ms": round(search.p50, 3),
            "p50_interval_ms": [round(search.low, 3), round(search.high, 3)],
            "p95_ms": round(search.p95, 3),
            "floor_p50_ms": round(floor.p50, 3),
            "floor_p95_ms": round(floor.p95, 3),
            "above_floor_ms": round(search.p50 - floor.p50, 3),
            "ratio": round(search.p50 / floor.p50, 3),
            "cached_p50_ms": round(cached.p50, 3),
            "cached_p95_ms": round(cached.p95, 3),
            "per_s": round(one, 1),
            "saturation_per_s": round(many, 1),
            "rerank_p50_ms": round(reranked.p50, 3),
            "rerank_floor_p50_ms": round(rerank_floor.p50, 3),
        },
        "ingest": {
            "ratio": round(ratio, 3),
            "chunks_per_s": round(percentile(through, 0.5), 1),
            "bare_chunks_per_s": round(percentile(bare, 0.5), 1),
        },
        "answer": {
            "p50_ms": round(answer.p50, 1),
            "p95_ms": round(answer.p95, 1),
            "first_token_p50_ms": round(first.p50, 1),
            "kernels_p50_ms": round(kernels_ms, 1),
            "first_token_ratio": round(first.p50 / kernels_ms, 3),
        },
        "idle": idle,
        "corpus": {"chunks": options.chunks, "rounds": options.rounds},
    }


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000, help="chunks to search in")
    parser.add_argument("--rounds", type=int, default=400, help="interleaved rounds")
    parser.add_argument("--repeats", type=int, default=5, help="documents ingested for the ratio")
    parser.add_argument("--filings", type=int, default=12, help="real documents ingested first")
    result = asyncio.run(bench(parser.parse_args()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
