"""One life of the mesh in containers: up, filled, asked, one replica killed, one service rolled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.pods.callers import Callers, Seen
from tools.pods.deployment import NAMESPACE, Deployment, NotReady
from tools.pods.derive import pod
from tools.pods.ground import Ground
from tools.pods.rendered import applied
from tools.pods.resources import Resource, Resources
from tools.pods.stores import Postgres, opensearch, postgres, s3

JOB_SECONDS = 180.0
READY_SECONDS = 300.0
RECOVERY_SECONDS = 120.0
SETTLED_SECONDS = 5.0
"""For callers to be under way before something happens, and for some time after it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to the mesh."""

    helm: Path
    """Python that has Helm as a library."""
    kill: str = "retrieval"
    """Component one of whose replicas is killed."""
    roll: str = "generation"
    """Component whose replicas are all replaced."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    containers: int = 0
    replicas: dict[str, int] = field(default_factory=dict)
    """That were ready, by component."""
    ready_s: float = 0.0
    """From the first Deployment's start until every replica was ready."""
    uploaded: int = 0
    asked: Seen = field(default_factory=Seen)
    """In peace."""
    killed: str = ""
    during_kill: Seen = field(default_factory=Seen)
    recovered_s: float = 0.0
    """Until the killed replica was ready again."""
    rolled: str = ""
    during_roll: Seen = field(default_factory=Seen)
    rolled_s: float = 0.0
    restarts: int = 0
    """Of replicas, by probes or death; the one that was killed included."""


async def play(ground: Ground, plan: Plan, say: Say) -> Report:
    """Brings the mesh up, does to it what is planned, and ends it as a cluster would.

    Raises:
        NotReady, PodmanFailed, Untranslated, Dangling, NotRendered, RuntimeError: it did not
            come so far; everything is gone all the same.
    """
    report = Report()
    say("Postgres and OpenSearch")
    database, _ = await asyncio.gather(postgres(ground), opensearch(ground))
    async with s3(ground) as address:
        resources = await asyncio.to_thread(applied, plan.helm, address, database)
        for job in resources.kind("Job"):
            await _finish(ground, job, resources)
            say(f"job {job['metadata']['name']} is complete")
        key = await asyncio.to_thread(_first_key, ground.folder, database)
        async with _deployments(ground, resources) as deployments:
            await _all_ready(deployments, report, say)
            report.containers = await asyncio.to_thread(ground.running)
            callers = Callers(lambda: _addresses(deployments["gateway"]), key)
            try:
                await _happenings(deployments, callers, plan, report, say)
            finally:
                await callers.close()
            report.restarts = sum(r.restarts for d in deployments.values() for r in d.replicas)
    return report


async def _happenings(
    deployments: dict[str, Deployment], callers: Callers, plan: Plan, report: Report, say: Say
) -> None:
    report.uploaded = len(await callers.upload())
    say(f"{report.uploaded} documents are ready")
    report.asked = await callers.ask_all()
    say(f"{report.asked.right} of {report.asked.asked} answers are right")

    victim = deployments[plan.kill].ready[0]
    report.killed = victim.name
    async with callers.busy() as report.during_kill:
        await asyncio.sleep(SETTLED_SECONDS)
        began = time.monotonic()
        victim.kill()
        await deployments[plan.kill].wait_restarted(victim, RECOVERY_SECONDS)
        report.recovered_s = time.monotonic() - began
        await asyncio.sleep(SETTLED_SECONDS)
    say(f"{victim.name} was killed and ready again after {report.recovered_s:.1f} s")

    rolled = deployments[plan.roll]
    report.rolled = plan.roll
    async with callers.busy() as report.during_roll:
        await asyncio.sleep(SETTLED_SECONDS)
        report.rolled_s = await rolled.roll(READY_SECONDS)
        await asyncio.sleep(SETTLED_SECONDS)
    say(f"{plan.roll} was rolled in {report.rolled_s:.1f} s")


async def _all_ready(deployments: dict[str, Deployment], report: Report, say: Say) -> None:
    began = time.monotonic()
    for deployment in deployments.values():
        await deployment.start()
    say(f"{sum(d.wanted for d in deployments.values())} replicas are started")
    for deployment in deployments.values():
        await deployment.wait_ready(READY_SECONDS)
        report.replicas[deployment.component] = len(deployment.ready)
    report.ready_s = time.monotonic() - began
    say(f"all are ready after {report.ready_s:.1f} s")


@asynccontextmanager
async def _deployments(
    ground: Ground, resources: Resources
) -> AsyncIterator[dict[str, Deployment]]:
    """The Deployments by component, not started yet; ended together."""
    made = [Deployment(ground, each, resources) for each in resources.kind("Deployment")]
    try:
        yield {deployment.component: deployment for deployment in made}
    finally:
        await asyncio.gather(*(deployment.end() for deployment in made))


async def _finish(ground: Ground, job: Resource, resources: Resources) -> None:
    """Runs a Job to its end.

    Raises:
        NotReady: it failed, or did not end in time.
    """
    name = job["metadata"]["name"]
    derived = pod(job["spec"]["template"], resources, name, NAMESPACE)
    await asyncio.to_thread(ground.create, name, derived, [])
    await asyncio.to_thread(ground.start, name)
    code = await asyncio.to_thread(ground.podman, "wait", name, timeout=JOB_SECONDS)
    if code != "0":
        raise NotReady(f"{name} ended with {code}:\n{ground.log(name)}")
    await asyncio.to_thread(ground.remove, name)


def _first_key(folder: Path, database: Postgres) -> str:
    """A project and a key with every scope, as an administrator makes them.

    Raises:
        RuntimeError: it could not be made.
    """
    kept = folder / "api_key"
    url = database.url("citemesh_gateway", database.address)
    done = subprocess.run(
        (sys.executable, "-m", "gateway.bootstrap", "--project", "pods", "--key-file", str(kept)),
        env={**os.environ, "CITEMESH_GATEWAY_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no first key: {done.stderr[-500:]}")
    return kept.read_text().strip()


def _addresses(gateway: Deployment) -> list[str]:
    """Where the gateways are that take requests, as the Service before them knows."""
    return [
        f"{replica.address}:{replica.pod.readiness.port}"
        for replica in gateway.ready
        if replica.pod.readiness is not None
    ]
