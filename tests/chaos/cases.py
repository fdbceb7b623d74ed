"""What is done to the mesh, and what a caller may see of it meanwhile.

Whatever happens no caller sees a wrong answer, an error that nobody thought of, a problem
without reason and request id or a request that hangs, and no acknowledged document is lost.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtest.chaos_ingest.victims import Victims, frozen
from tests.chaos.proxy import Line

ANSWER, SEARCH, UPLOAD = "answer", "search", "upload"
EVERYTHING = frozenset({ANSWER, SEARCH, UPLOAD})
NOTHING: frozenset[str] = frozenset()
FROZEN_SECONDS = 4.0
CUT_SECONDS = 4.0
SLOW_SECONDS = 0.15


class NotHere(Exception):
    """This machine cannot do it; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault can reach."""

    victims: Victims
    lines: dict[str, Line]
    """Between each service and its callers."""
    small_disk: Path | None
    """Where the blobs lie, when that is a small file system of its own."""
    clock: Path
    """File by which libfaketime sets the clock of every process of a mesh started with it."""


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One fault under load."""

    name: str
    fault: Fault
    refused: frozenset[str]
    """Kinds of requests that may be answered 503 or 504, with a reason. Others must not."""
    breaks: bool = False
    """Whether connections of callers may end without an answer."""
    at_once: bool = False
    """Whether recovery counts from the beginning of the fault rather than from its end."""
    clock: bool = False
    """Whether the mesh has to be started with a clock that can be set."""
    short: bool = False
    """Part of `make chaos SHORT=1`."""


def kill(name: str) -> Fault:
    """Kill -9."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        await scene.victims.kill(name)
        yield

    return fault


def freeze(name: str, seconds: float = FROZEN_SECONDS) -> Fault:
    """SIGSTOP, and SIGCONT after some seconds."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        pid = await scene.victims.running(name)
        async with frozen(pid, with_children=name == "postgres"):
            await asyncio.sleep(seconds)
        await scene.victims.ready(name)
        yield

    return fault


def cut(name: str) -> Fault:
    """Nothing gets to a service or back from it."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.lines[name].cut():
            await asyncio.sleep(CUT_SECONDS)
        yield

    return fault


def slow(name: str) -> Fault:
    """Everything to and from a service takes longer."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.lines[name].slow(SLOW_SECONDS):
            await asyncio.sleep(CUT_SECONDS)
        yield

    return fault


@asynccontextmanager
async def full_disk(scene: Scene) -> AsyncIterator[None]:
    """No room where the blobs lie."""
    if scene.small_disk is None:
        raise NotHere("a small disk needs root and mount: nothing was filled up")
    filler = scene.small_disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (65_536, 4_096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        await asyncio.sleep(CUT_SECONDS)
    finally:
        filler.unlink()
    yield


def clock_jump(by: str) -> Fault:
    """The clock of every process goes wrong by `+1h` or `-1h`, and is set right again."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        scene.clock.write_text(f"{by}\n")
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            scene.clock.write_text("+0\n")
        yield

    return fault


def settable_clock(file: Path) -> dict[str, str]:
    """Variables of a process whose clock is set by a file; its monotonic clock stays true.

    Raises:
        NotHere: libfaketime is not installed.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise NotHere("a clock jump needs libfaketime: apt-get install libfaketime")
    file.write_text("+0\n")
    file.chmod(0o644)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@asynccontextmanager
async def small_disk(folder: Path, megabytes: int = 24) -> AsyncIterator[Path | None]:
    """A small file system of its own on a folder; None where that may not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=0777"
    mounted = (
        os.geteuid() == 0
        and subprocess.run(  # noqa: ASYNC221
            ["mount", "-t", "tmpfs", "-o", options, "citemesh-chaos", str(folder)],
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: ASYNC221


def _killed(name: str, *refused: str, breaks: bool = False, short: bool = False) -> Case:
    can = frozenset(refused)
    return Case(f"kill -9 {name}", kill(name), can, breaks=breaks, at_once=True, short=short)


def _frozen(name: str, *refused: str, short: bool = False) -> Case:
    return Case(f"SIGSTOP {name}", freeze(name), frozenset(refused), short=short)


CASES: tuple[Case, ...] = (
    # Without a guardrail no answer is given; searches need none, uploads wait in the queue.
    _killed("guardrail", ANSWER, short=True),
    # Without the embedder search goes on by words.
    _killed("embedding", short=True),
    _killed("embedding_bulk"),
    # Without the cross-encoder the fused order stands.
    _killed("rerank", short=True),
    _killed("retrieval", ANSWER, SEARCH, short=True),
    _killed("ingestion", UPLOAD, short=True),
    _killed("generation", ANSWER, short=True),
    _killed("gateway", *EVERYTHING, breaks=True, short=True),
    Case("Postgres restarts", kill("postgres"), EVERYTHING, at_once=True, short=True),
    _frozen("guardrail", ANSWER),
    _frozen("embedding"),
    _frozen("embedding_bulk"),
    _frozen("rerank"),
    _frozen("retrieval", ANSWER, SEARCH, short=True),
    _frozen("ingestion", UPLOAD),
    _frozen("generation", ANSWER),
    _frozen("gateway", *EVERYTHING),
    _frozen("postgres", *EVERYTHING),
    Case("partition: embedding", cut("embedding"), NOTHING),
    Case("partition: guardrail", cut("guardrail"), frozenset({ANSWER})),
    Case("partition: retrieval", cut("retrieval"), frozenset({ANSWER, SEARCH}), short=True),
    Case("partition: generation", cut("generation"), frozenset({ANSWER})),
    Case("partition: ingestion", cut("ingestion"), frozenset({UPLOAD})),
    Case("slow network: retrieval", slow("retrieval"), NOTHING),
    Case("slow network: embedding", slow("embedding"), NOTHING, short=True),
    Case("disk full", full_disk, frozenset({UPLOAD}), short=True),
    Case("clock an hour ahead", clock_jump("+1h"), EVERYTHING, clock=True),
    Case("clock an hour behind", clock_jump("-1h"), EVERYTHING, clock=True),
)
