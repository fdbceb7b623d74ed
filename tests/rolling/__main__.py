"""`make rolling-restart`: replaces every process of a mesh under load; a table and a JSON object.

Exit code 1 when a request failed, a process did not drain, or an acknowledged document is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshkit.components import COMPONENTS, RUNTIME_ROLES
from meshkit.database.bootstrap import bootstrap
from meshkit.database.migrate import migrate
from meshkit.supervisor.database import ROLE_PREFIX
from meshkit.supervisor.postgres import DATABASE, RunningPostgres, create_database
from tests.opensearch.node import Missing, running
from tests.rolling.fleet import MIN_READY_SECONDS, Fleet, NotDrained, running_fleet
from tests.rolling.traffic import Traffic

SETTINGS = {
    # Who is turned away because of the load is another promise: `make overload`.
    "CITEMESH_ADAPTIVE_LIMIT": "false",
    "CITEMESH_GATEWAY_KEY_LIMIT": "1000000/minute",
    "CITEMESH_GATEWAY_ADDRESS_LIMIT": "1000000/minute",
    "CITEMESH_DATABASE_POOL_SIZE": "4",
    # On a machine that does other things besides, what is missing is still a restart's fault.
    "CITEMESH_RETRIEVAL_RERANK_SECONDS": "2",
    "CITEMESH_RETRIEVAL_RERANK_SHARE": "0.8",
}
ONE_WRITER = "retrieval"
"""Has one process without OpenSearch: the index in its directory has one writer."""


@dataclass(slots=True)
class Rolled:
    """What a rolling restart came to."""

    restarts: int = 0
    drain_s: dict[str, float] = field(default_factory=dict)
    """Longest time from SIGTERM to the end, by component."""
    start_s: dict[str, float] = field(default_factory=dict)
    """Longest time until a successor was ready, by component."""
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    """What failed while a component was restarted."""


async def roll(fleet: Fleet, traffic: Traffic, components: list[str]) -> Rolled:
    """Replaces every process of these components, one after the other, under load.

    Raises:
        NotDrained: one did not end by itself.
    """
    rolled = Rolled()
    async with traffic.flowing():
        await asyncio.sleep(MIN_READY_SECONDS)
        for name in components:
            before = traffic.failed()
            for each in fleet.replicas:
                if each.component.name != name:
                    continue
                drained, started = await fleet.restart(each)
                rolled.restarts += 1
                rolled.drain_s[name] = max(rolled.drain_s.get(name, 0.0), round(drained, 2))
                rolled.start_s[name] = max(rolled.start_s.get(name, 0.0), round(started, 2))
                await asyncio.sleep(MIN_READY_SECONDS)
            rolled.failed[name] = traffic.failed() - before
    return rolled


@contextmanager
def prepared_postgres(home: Path) -> Iterator[dict[str, str]]:
    """An embedded Postgres with the schemas; URLs by service."""
    with RunningPostgres(home / "postgres", RUNTIME_ROLES) as postgres:
        cluster = postgres.cluster

        async def prepare() -> None:
            await create_database(cluster.maintenance_dsn, DATABASE)
            await bootstrap(cluster.admin_dsn, cluster.passwords)
            await migrate(cluster.admin_dsn)

        asyncio.run(prepare())
        yield {
            role.removeprefix(ROLE_PREFIX): cluster.dsn(role, DATABASE) for role in RUNTIME_ROLES
        }


async def run(
    home: Path, urls: Mapping[str, str], opensearch: str, replicas: int, rate: float
) -> dict[str, Any]:
    """Rolls a fleet once; the object of the last line."""
    still = [] if opensearch else [ONE_WRITER]
    names = [component.name for component in COMPONENTS if component.name not in still]
    settings = {**SETTINGS, **({"CITEMESH_OPENSEARCH_URL": opensearch} if opensearch else {})}
    counts = dict.fromkeys(names, replicas)
    async with running_fleet(home / "data", urls, counts, settings) as (fleet, key):
        traffic = Traffic(fleet.gateways, key, rate)
        async with traffic.connected():
            began = time.monotonic()
            rolled = await roll(fleet, traffic, names)
            seconds = time.monotonic() - began
            try:
                await traffic.settled(traffic.acknowledged)
                lost = 0
            except TimeoutError as error:
                print(error, file=sys.stderr)
                lost = str(error).count("doc_")
    for name in names:
        troubles = dict(rolled.failed[name])
        print(f"{name:16}{rolled.drain_s[name]:8.2f} s{rolled.start_s[name]:8.2f} s  {troubles}")
    took = sorted(each.ended - each.began for each in traffic.outcomes)
    return {
        "requests": len(traffic.outcomes),
        "failed": sum(traffic.failed().values()),
        "degraded": sum(bool(each.degraded) for each in traffic.outcomes),
        "missing": dict(Counter(name for each in traffic.outcomes for name in each.degraded)),
        "restarts": rolled.restarts,
        "replicas": replicas,
        "not_rolled": still,
        "longest_gap_s": round(traffic.longest_gap(), 2),
        "p95_ms": round(took[int(0.95 * (len(took) - 1))] * 1e3),
        "slowest_s": round(took[-1], 2),
        "acknowledged": len(traffic.acknowledged),
        "lost": lost,
        "per_second": rate,
        "seconds": round(seconds, 1),
        "reasons": dict(traffic.failed()),
    }


def main() -> int:
    """Reads the options, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.rolling", description=__doc__)
    parser.add_argument("--replicas", type=int, default=2, help="processes a service has")
    parser.add_argument("--rate", type=float, default=5.0, help="requests that begin each second")
    parser.add_argument("--tantivy", action="store_true", help="retrieval is not rolled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="citemesh-rolling-") as folder:
        home = Path(folder)
        # Postgres runs as another account when we are root.
        home.chmod(0o711)
        with prepared_postgres(home) as urls, lexical(options.tantivy) as opensearch:
            print(f"{'':16}{'drained in':>10}{'ready in':>10}  failed meanwhile", flush=True)
            try:
                found = asyncio.run(run(home, urls, opensearch, options.replicas, options.rate))
            except NotDrained as error:
                print(error, file=sys.stderr)
                return 1
    print(json.dumps(found))
    return 0 if not found["failed"] and not found["lost"] else 1


@contextmanager
def lexical(tantivy: bool) -> Iterator[str]:
    """Address of an OpenSearch node; empty when there is none, which is said."""
    if tantivy:
        yield ""
        return
    try:
        with running() as node:
            yield node.url
    except Missing as missing:
        print(f"retrieval is not rolled: {missing}")
        yield ""


if __name__ == "__main__":
    sys.exit(main())
