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
from tests.chaos.clock import Clocks
from tests.chaos.proxy import Line
from tests.chaos.search_node import SearchNode

ANSWER, SEARCH, UPLOAD = "answer", "search", "upload"
EVERYTHING = frozenset({ANSWER, SEARCH, UPLOAD})
NOTHING: frozenset[str] = frozenset()
LONG_SECONDS, SHORT_SECONDS = 4.0, 2.5
"""How long a fault lasts that does not end by itself."""
SLOW_SECONDS = 0.15
HOUR = 3_600


class NotHere(Exception):
    """This machine cannot do it; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault can reach."""

    seconds: float
    """How long it lasts, if it does not end by itself."""
    victims: Victims
    lines: dict[str, Line]
    """Between each service and its callers."""
    small_disk: Path | None
    """Where the blobs lie, when that is a small file system of its own."""
    clocks: Clocks | None
    """Of every process, where they can be set."""
    search_node: SearchNode | None
    """OpenSearch, in a mesh that has one."""


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
    short: bool = False
    """Part of `make chaos SHORT=1`."""
    opensearch: bool = False
    """Whether it is done to a mesh whose lexical index is OpenSearch."""


def kill(name: str) -> Fault:
    """Kill -9."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        await scene.victims.kill(name)
        yield

    return fault


def freeze(name: str) -> Fault:
    """SIGSTOP, and SIGCONT after some seconds."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        pid = await scene.victims.running(name)
        async with frozen(pid, with_children=name == "postgres"):
            await asyncio.sleep(scene.seconds)
        await scene.victims.ready(name)
        yield

    return fault


def cut(name: str) -> Fault:
    """Nothing gets to a service or back from it."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.lines[name].cut():
            await asyncio.sleep(scene.seconds)
        yield

    return fault


def slow(name: str) -> Fault:
    """Everything to and from a service takes longer."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        async with scene.lines[name].slow(SLOW_SECONDS):
            await asyncio.sleep(scene.seconds)
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
        await asyncio.sleep(scene.seconds)
    finally:
        filler.unlink()
    yield


def clock_jump(seconds: int, *names: str) -> Fault:
    """The clocks of some processes, or of all, are wrong for a while and then right again."""

    @asynccontextmanager
    async def fault(scene: Scene) -> AsyncIterator[None]:
        if scene.clocks is None:
            raise NotHere("a clock jump needs Linux and a C compiler: apt-get install gcc")
        processes = scene.victims.processes(*names)
        scene.clocks.move(processes, seconds)
        try:
            await asyncio.sleep(scene.seconds)
        finally:
            scene.clocks.move(processes, 0)
        yield

    return fault


@asynccontextmanager
async def killed_search_node(scene: Scene) -> AsyncIterator[None]:
    """OpenSearch ends by kill -9, and some seconds later it is started again on its data."""
    assert scene.search_node is not None
    await scene.search_node.kill()
    await asyncio.sleep(scene.seconds)
    await scene.search_node.start()
    yield


@asynccontextmanager
async def frozen_search_node(scene: Scene) -> AsyncIterator[None]:
    """SIGSTOP to OpenSearch, and SIGCONT after some seconds."""
    assert scene.search_node is not None
    async with frozen(scene.search_node.pid, with_children=False):
        await asyncio.sleep(scene.seconds)
    yield


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


def _jumps(name: str) -> tuple[Case, Case]:
    """An hour ahead and an hour behind: whoever has the wrong time, nobody sees anything of it."""
    names = () if name == "all" else (name,)
    return (
        Case(f"clock +1 h: {name}", clock_jump(HOUR, *names), NOTHING, short=not names),
        Case(f"clock -1 h: {name}", clock_jump(-HOUR, *names), NOTHING),
    )


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
    *_jumps("all"),
    *_jumps("gateway"),
    *_jumps("generation"),
    *_jumps("ingestion"),
    *_jumps("retrieval"),
    *_jumps("postgres"),
    # Without OpenSearch search goes on by meaning, and uploads wait.
    Case("kill -9 OpenSearch", killed_search_node, NOTHING, opensearch=True),
    Case("SIGSTOP OpenSearch", frozen_search_node, NOTHING, opensearch=True),
    Case("partition: OpenSearch", cut("opensearch"), NOTHING, opensearch=True),
)
