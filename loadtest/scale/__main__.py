"""`python -m loadtest.scale`: a table of what growth costs, one JSON object as the last line.

Exit code 1 when a search finds less than 95 % of the true ten nearest, or fewer hits than
its project could give.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg

from loadtest.scale import measure, plot
from loadtest.scale.measure import Beam
from loadtest.scale.table import Filled, database, drop, fill, keep
from loadtest.scale.vectors import Corpus

LEAST_RECALL = 0.95


async def scale(options: argparse.Namespace) -> dict[str, Any]:
    """Every size with every number of projects, one after the other."""
    tables: list[dict[str, Any]] = []
    curves: dict[int, list[Beam]] = {}
    kept: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="citemesh-scale-") as folder:
        Path(folder).chmod(0o711)  # noqa: ASYNC240 - nothing else runs yet
        async with database(Path(folder) / "postgres") as running:
            url = running.cluster.admin_dsn
            owner = await asyncpg.connect(url, command_timeout=None)
            for rows in options.rows:
                corpus = Corpus(rows)
                for count in options.projects:
                    table = await fill(owner, corpus, count)
                    asked = measure.questions(corpus, table, options.questions)
                    runtime = await asyncpg.connect(running.cluster.dsn("citemesh_retrieval"))
                    found = await measure.search(runtime, table, asked)
                    await runtime.close()
                    tables.append({"rows": rows, "projects": len(table.sizes)} | _of(table, found))
                    print(line(tables[-1]), flush=True)
                    if count == min(options.projects):
                        if count == 1:
                            curves[rows] = await measure.curve(owner, table, asked)
                        if options.keep:
                            kept[rows] = _rounded(asdict(await keep(owner, url, table, corpus)))
                    await drop(owner, table)
            await owner.close()
    report(curves, kept)
    if options.plot and curves:
        options.plot.write_text(plot.svg(curves))
    return {
        "tables": tables,
        "curve": {
            str(rows): [_rounded(asdict(b)) for b in curve] for rows, curve in curves.items()
        },
        "keeping": {str(rows): found for rows, found in kept.items()},
    }


def _of(table: Filled, found: measure.Found) -> dict[str, float]:
    sizes = {"build_s": table.build_s, "load_s": table.load_s, "index_mb": table.index_mb}
    return _rounded(asdict(found) | sizes)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


HEAD = (
    f"{'rows':>9s} {'projects':>8s} {'p50 ms':>8s} {'p95 ms':>8s} {'recall@10':>9s} "
    f"{'k of k':>6s} {'load s':>7s} {'build s':>8s} {'index MB':>8s}"
)


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    return (
        f"{row['rows']:9d} {row['projects']:8d} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} "
        f"{row['recall_at_10']:9.3f} {row['fewest']:6.2f} {row['load_s']:7.1f} "
        f"{row['build_s']:8.1f} {row['index_mb']:8.1f}"
    )


def report(curves: dict[int, list[Beam]], kept: dict[int, dict[str, float]]) -> None:
    """Prints the curves, and what keeping the indexes takes."""
    for rows, curve in curves.items():
        print(f"\nthe bare index over {rows} rows")
        for beam in curve:
            print(
                f"  ef_search {beam.ef_search:4d}: {beam.p50_ms:6.2f} ms, "
                f"recall@10 {beam.recall_at_10:.3f}, recall@50 {beam.recall_at_50:.3f}"
            )
    for rows, found in kept.items():
        print(
            f"\n{rows} rows: {found['insert_per_s']:.0f} rows/s into the finished index; a tenth "
            f"deleted: vacuum {found['vacuum_s']:.1f} s, rebuilt in {found['reindex_s']:.1f} s"
        )
    print()


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.scale", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--projects", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument(
        "--keep",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure inserts, vacuum and rebuild too, which take longest",
    )
    parser.add_argument("--plot", type=Path, help="write the recall and latency curve here, as SVG")
    options = parser.parse_args()
    print(HEAD, flush=True)
    result = asyncio.run(scale(options))
    print(json.dumps(result))
    good = all(
        row["recall_at_10"] >= LEAST_RECALL and row["fewest"] == 1.0 for row in result["tables"]
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
