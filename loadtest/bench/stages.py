"""`python -m loadtest.bench.stages`: the two stages of a search that a promise names by their time.

Fusion of two lists of 100 in this process, and the reading of each hit's neighbours by a running
mesh, as it tells itself. One JSON object as the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

import citemesh
from citemesh.retrieval import v1
from loadtest.bench.statistics import summary
from meshkit.cli.client import Target
from services.retrieval.fusion import Fusion, RankedList, fuse

LENGTH = 100
ROUNDS = 500
REACH = 2
"""Chunks before and after a hit."""
FUSION_MS, NEIGHBOURS_MS = 0.2, 2.0


def fusion_ms(method: Fusion) -> list[float]:
    """Milliseconds to fuse two lists of 100 that share half of their items."""
    chosen = random.Random(1)
    lists = []
    for _ in range(2):
        keys = chosen.sample(range(LENGTH * 3 // 2), LENGTH)
        scores = sorted((chosen.random() for _ in keys), reverse=True)
        lists.append(RankedList(keys, scores))
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        fuse(lists, method)
        took.append((time.perf_counter() - started) * 1e3)
    return took


async def neighbours_ms(target: Target, queries: list[str]) -> list[float]:
    """Milliseconds that searches with neighbours say they took to read them."""
    took = []
    async with citemesh.connect(target.url, target.key) as mesh:
        for query in queries:
            found = await mesh.retrieval.Search(
                v1.SearchRequest(
                    query=query, top_k=10, neighbours=REACH, rerank=v1.RERANK_MODE_OFF
                ),
                timeout=30,
            )
            if found.hits:
                took.append(found.timings_ms["neighbours"])
    return took


def main() -> int:
    """Measures, prints, and says whether the promises hold."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.stages", description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="data directory of a mesh")
    parser.add_argument("--query", action="append", default=None, help="asked in turn")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    figures = {}
    for method in Fusion:
        found = summary(fusion_ms(method))
        print(f"fusion, {method.value:<8} 2 x {LENGTH}      {found}")
        figures[f"fusion_{method.value}_p50_ms"] = round(found.p50, 4)
    holds = all(value < FUSION_MS for value in figures.values())
    if given.query:
        asked = [given.query[number % len(given.query)] for number in range(given.rounds)]
        found = summary(asyncio.run(neighbours_ms(Target.find(None, given.data), asked)))
        print(f"neighbours of 10 hits, {REACH} each side {found}")
        figures["neighbours_p50_ms"] = round(found.p50, 3)
        holds = holds and found.p50 <= NEIGHBOURS_MS
    print(json.dumps(figures))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
