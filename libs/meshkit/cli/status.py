"""The tables of `citemesh status`."""

from __future__ import annotations

import time
from typing import Any

import httpx
import psutil

from meshkit.cli.client import TIMEOUT, body, reaching
from meshkit.cli.failure import CommandFailed
from meshkit.cli.output import print_json, table
from meshkit.supervisor.layout import DataDirectory, Holder
from meshkit.supervisor.state import read

CPU_SAMPLE_S = 0.5
HEALTHY = {"ready", "stopped"}


def local_status(data: DataDirectory, running: Holder, *, as_json: bool) -> None:
    """The mesh of this data directory, as its supervisor and the kernel see it.

    Args:
        data: the data directory.
        running: who holds it; what an earlier supervisor wrote is not shown.
        as_json: print JSON.

    Raises:
        CommandFailed: not everything is ready (the table is printed first).
    """
    state = read(data.state)
    if state is None or state.pid != running.pid:
        raise CommandFailed("The mesh is just starting; ask again.", "MESH_STARTING")
    load = _load({child.name: child.pid for child in state.children} | {"supervisor": state.pid})
    depth = _readiness(state.url)
    rows: list[dict[str, Any]] = [
        {"service": "supervisor", "health": state.phase, "pid": state.pid, "restarts": 0}
    ]
    rows += [
        {
            "service": child.name,
            "health": child.state,
            "pid": child.pid,
            "restarts": child.restarts,
            "address": child.address,
        }
        for child in state.children
    ]
    for row in rows:
        row.update(load.get(row["service"], {}), version=state.version)
    if as_json:
        print_json({"url": state.url, "since": state.since, "services": rows, "readiness": depth})
    else:
        print(f"{state.url} since {state.since}, version {state.version}")
        columns = ("service", "health", "pid", "restarts", "memory", "cpu", "address", "version")
        table(columns, [_cells(row, columns) for row in rows])
        total = sum(row.get("memory_mb", 0) for row in rows)
        cpu = sum(row.get("cpu_percent", 0) for row in rows)
        print(f"all together {total:.0f} MB, {cpu:.1f} % of one core")
        _print_readiness(depth)
    late = [row["service"] for row in rows if row["health"] not in HEALTHY]
    if late:
        raise CommandFailed(f"Not ready: {', '.join(late)}.", "NOT_READY")


def _cells(row: dict[str, Any], columns: tuple[str, ...]) -> list[object]:
    shown = dict(row)
    if "memory_mb" in row:
        shown["memory"] = f"{row['memory_mb']:.0f} MB"
        shown["cpu"] = f"{row['cpu_percent']:.1f} %"
    return [shown.get(name) for name in columns]


def _load(pids: dict[str, int | None]) -> dict[str, dict[str, float]]:
    """Memory (proportional share where the kernel tells it, children included) and processor."""
    families = {name: _family(pid) for name, pid in pids.items() if pid is not None}
    if "supervisor" in families:
        families["supervisor"] = families["supervisor"][:1]
    before = {name: _cpu_seconds(family) for name, family in families.items()}
    began = time.monotonic()
    time.sleep(CPU_SAMPLE_S)
    elapsed = time.monotonic() - began
    return {
        name: {
            "memory_mb": sum(_memory(process) for process in family) / 2**20,
            "cpu_percent": max(0.0, 100 * (_cpu_seconds(family) - before[name]) / elapsed),
        }
        for name, family in families.items()
    }


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(family: list[psutil.Process]) -> float:
    total = 0.0
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += float(times.user + times.system)
    return total


def _memory(process: psutil.Process) -> float:
    try:
        full = process.memory_full_info()
        return float(getattr(full, "pss", 0) or full.rss)
    except psutil.Error:
        return 0.0


def _readiness(url: str) -> dict[str, Any]:
    """What `/readyz` says; empty when it does not answer, which the table shows anyway."""
    try:
        with httpx.Client(base_url=url, timeout=3.0, trust_env=False) as http:
            content = http.get("/readyz").json()
    except (httpx.HTTPError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _print_readiness(content: dict[str, Any]) -> None:
    for name, value in content.items():
        if name in ("status", "parts", "breakers") or value in (None, [], {}, ""):
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name}: {shown}")
    if breakers := content.get("breakers"):
        print("providers given a rest after failures (`citemesh providers reset` ends it):")
        columns = ("process", "provider", "model", "use", "state", "why", "again in")
        table(columns, [_breaker(found) for found in breakers])


def _breaker(found: dict[str, Any]) -> tuple[object, ...]:
    left = found["seconds_left"]
    return (
        f"{found['component']} at {found['address']}",
        found["provider"],
        found["model"] or "all: its account",
        found["operation"],
        found["state"].replace("_", " "),
        found["fault"],
        f"{left:.0f} s" if left else "",
    )


def remote_status(url: str, *, as_json: bool) -> None:
    """What a mesh elsewhere says about itself.

    Raises:
        CommandFailed: it does not answer, or something is missing.
    """
    with reaching(url), httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT) as http:
        response = http.get("/readyz")
    content = body(response)
    if as_json:
        print_json({"url": url, "readiness": content})
    else:
        parts = content.get("parts") or {}
        rows = [(name, "ready" if there else "missing") for name, there in parts.items()]
        print(f"{url}: {content.get('status', 'unknown')}")
        table(("part", "state"), rows)
        _print_readiness(content)
    if not response.is_success:
        raise CommandFailed(f"The mesh at {url} is not ready.", "NOT_READY")
