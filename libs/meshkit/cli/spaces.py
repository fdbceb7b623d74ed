"""`citemesh reindex --space`: embedding spaces filled, watched, switched to and dropped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshkit.cli.client import Target
from meshkit.cli.failure import CommandFailed
from meshkit.cli.output import note, print_json, table
from meshkit.cli.rpc import connected

if TYPE_CHECKING:
    from citemesh.retrieval.v1 import IndexedSpace, RetrievalServiceAsyncStub

CALL_SECONDS = 60.0
COUNT_SECONDS = 1800.0
"""A switch counts every chunk, and an estimate reads every token count."""
LOOK_SECONDS = 0.5


def show(target: Target, space: str, *, estimate: bool, as_json: bool) -> None:
    """Prints how far spaces are filled, or what filling them would cost."""
    found = [_as_dict(each, estimate) for each in asyncio.run(_list(target, space, estimate))]
    if as_json:
        print_json(found)
        return
    columns = ["space", "state", "chunks", "pending", "filling", "trouble", "mb"]
    if estimate:
        columns += ["tokens", "cost_usd", "more_mb", "truncated"]
    table(columns, [[row[name] for name in columns] for row in found])


def is_active(target: Target, space: str) -> bool:
    """Whether the space is the active one."""
    [found] = asyncio.run(_list(target, space, False))
    return _state(found) == "active"


def pause(target: Target, space: str) -> None:
    """Stops filling a space."""
    from citemesh.retrieval import v1

    async def step(stub: RetrievalServiceAsyncStub) -> IndexedSpace:
        return (
            await stub.PauseSpace(v1.PauseSpaceRequest(space=space), timeout=CALL_SECONDS)
        ).space

    found = asyncio.run(_with(target, step))
    print(f"Filling {space} is paused: {_progress(found)}.")


def drop(target: Target, space: str, *, sure: bool) -> None:
    """Retires a space and drops its vectors."""
    from citemesh.retrieval import v1

    [found] = asyncio.run(_list(target, space, False))
    if not sure:
        typer.confirm(
            f"Drop {found.bytes / 1e6:.1f} MB of vectors of {space} ({_state(found)})?", abort=True
        )

    async def step(stub: RetrievalServiceAsyncStub) -> int:
        request = v1.DropSpaceRequest(space=space)
        return (await stub.DropSpace(request, timeout=CALL_SECONDS)).bytes

    gone = asyncio.run(_with(target, step))
    print(f"{space} is retired, and {gone / 1e6:.1f} MB are dropped.")


def fill(target: Target, space: str, *, switch: bool, wait: bool, sure: bool) -> None:
    """Fills a space, from the start or from where it was paused, and switches to it if asked.

    Raises:
        CommandFailed: see `connected`; FILLING_PAUSED or FILLING_STUCK.
    """
    [before] = asyncio.run(_list(target, space, True))
    if not before.followed:
        _agree_to_cost(before, sure)
    try:
        found = asyncio.run(_fill(target, space, wait=wait or switch))
    except KeyboardInterrupt:
        note(f"{space} goes on being filled; --pause stops it, --status shows it.")
        raise
    if found.pending_count:
        print(f"{space} is being filled: {_progress(found)}.")
        return
    print(f"{space} is filled: {_progress(found)}.")
    if not switch:
        note(f"`citemesh reindex --space {space} --switch` makes it the active one.")
        return
    switched = asyncio.run(_with(target, lambda stub: _switch(stub, space)))
    print(
        f"{switched.active} is the active space now, after {switched.chunk_count} chunks were "
        f"checked; {switched.previous} stands by."
    )


def _agree_to_cost(space: IndexedSpace, sure: bool) -> None:
    cost = space.estimated_cost_micro_usd / 1e6
    note(
        f"To fill {space.name}: {space.pending_count} chunks, about {space.estimated_tokens} "
        f"tokens, {cost:.2f} USD and {space.estimated_bytes / 1e6:.1f} MB of disk."
    )
    if space.estimated_truncated_count:
        note(
            f"{space.estimated_truncated_count} chunks are longer than the model reads; the rest "
            "of each cannot be found by meaning."
        )
    if space.estimated_cost_micro_usd and not sure:
        typer.confirm("Go on?", abort=True)


async def _fill(target: Target, space: str, *, wait: bool) -> IndexedSpace:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from citemesh.retrieval import v1

    async with connected(target) as mesh:
        request = v1.BuildSpaceRequest(space=space)
        found = (await mesh.retrieval.BuildSpace(request, timeout=CALL_SECONDS)).space
        if not wait:
            return found
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("filling", total=None)
            while found.pending_count:
                if found.paused:
                    raise CommandFailed(
                        f"Filling {space} was paused: {_progress(found)}.", "FILLING_PAUSED"
                    )
                if found.stuck_count >= found.pending_count:
                    raise CommandFailed(
                        f"{found.stuck_count} chunks of {space} cannot be embedded "
                        f"({found.trouble}); see the log of retrieval for their documents.",
                        "FILLING_STUCK",
                    )
                progress.update(
                    task,
                    description=f"filling ({found.trouble})" if found.trouble else "filling",
                    completed=found.chunk_count - found.pending_count,
                    total=found.chunk_count,
                )
                await asyncio.sleep(LOOK_SECONDS)
                [found] = await _listed(mesh.retrieval, space, False)
        return found


async def _switch(stub: RetrievalServiceAsyncStub, space: str) -> Any:
    from citemesh.retrieval import v1
    from meshkit.ids import new_request_id

    request = v1.SwitchSpaceRequest(space=space, request_id=new_request_id())
    return await stub.SwitchSpace(request, timeout=COUNT_SECONDS)


async def _with(target: Target, step: Callable[[RetrievalServiceAsyncStub], Awaitable[Any]]) -> Any:
    async with connected(target) as mesh:
        return await step(mesh.retrieval)


async def _list(target: Target, space: str, estimate: bool) -> Sequence[IndexedSpace]:
    async with connected(target) as mesh:
        return await _listed(mesh.retrieval, space, estimate)


async def _listed(
    stub: RetrievalServiceAsyncStub, space: str, estimate: bool
) -> Sequence[IndexedSpace]:
    from citemesh.retrieval import v1

    request = v1.ListIndexedSpacesRequest(space=space, estimate=estimate)
    return (await stub.ListIndexedSpaces(request, timeout=COUNT_SECONDS)).spaces


def _state(space: IndexedSpace) -> str:
    from citemesh.embedding.v1 import SpaceState

    return SpaceState.Name(space.state).removeprefix("SPACE_STATE_").lower()


def _progress(space: IndexedSpace) -> str:
    return f"{space.chunk_count - space.pending_count} of {space.chunk_count} chunks"


def _as_dict(space: IndexedSpace, estimate: bool) -> dict[str, Any]:
    filling = "paused" if space.paused else "yes" if space.followed else "no"
    found: dict[str, Any] = {
        "space": space.name,
        "state": _state(space),
        "chunks": space.chunk_count,
        "pending": space.pending_count,
        "stuck": space.stuck_count,
        "filling": filling,
        "trouble": space.trouble,
        "mb": round(space.bytes / 1e6, 1),
    }
    if estimate:
        found |= {
            "tokens": space.estimated_tokens,
            "cost_usd": space.estimated_cost_micro_usd / 1e6,
            "more_mb": round(space.estimated_bytes / 1e6, 1),
            "truncated": space.estimated_truncated_count,
        }
    return found


def rebuild_index(space: str, memory_mb: int, data: Path | None) -> None:
    """Builds the vector index of a space anew from its vectors."""
    import asyncpg

    from meshkit.database.dense_index import SpaceUnknown, rebuild
    from meshkit.database.migrate import MigrationBusy
    from meshkit.supervisor.layout import DataDirectory
    from meshkit.supervisor.postgres import Cluster, PostgresError

    url = os.environ.get("CITEMESH_DATABASE_URL", "")
    try:
        url = url or Cluster.attach(DataDirectory.at(data).postgres).admin_dsn
        done = asyncio.run(rebuild(url, space, most_memory=memory_mb * 1024 * 1024))
    except SpaceUnknown as error:
        raise CommandFailed(str(error), "SPACE_UNKNOWN") from error
    except PostgresError as error:
        raise CommandFailed(error.detail, error.reason) from error
    except MigrationBusy as error:
        raise CommandFailed(str(error), "MIGRATION_BUSY") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # The error's own text may repeat the URL; its kind is enough.
        raise CommandFailed(
            f"The database refused the rebuild ({type(error).__name__}).", "REINDEX_FAILED"
        ) from error
    print(
        f"{done.index} is rebuilt over {done.rows} rows in {done.seconds:.1f} s: "
        f"{done.bytes_before / 1e6:.1f} MB before, {done.bytes_after / 1e6:.1f} MB now."
    )
