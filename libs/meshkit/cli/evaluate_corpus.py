"""The corpus of a data set in a mesh: uploaded, searchable, and known by its own ids."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meshkit.cli.failure import CommandFailed
from meshkit.cli.output import note
from meshkit.cli.upload import Upload, upload_all

if TYPE_CHECKING:
    from meshkit.cli.beir import Dataset
    from meshkit.cli.client import Target

LABEL = "eval"
"""Label of a data set's documents; its value is the data set's name."""


def bar() -> Progress:
    """A progress bar on standard error; nothing where there is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def ingest(dataset: Dataset, target: Target) -> dict[str, list[str]]:
    """Uploads the corpus and waits until it is searchable; corpus ids by document id.

    What is in the mesh already (the same content) is not processed again.

    Raises:
        CommandFailed: a text cannot be ingested, or the mesh is away.
    """
    uploads = [
        Upload(f"{entry.id}.txt", None, entry.as_file(), entry.title, {LABEL: dataset.name})
        for entry in dataset.corpus
    ]
    began = time.monotonic()
    over: set[int] = set()

    with bar() as progress:
        task = progress.add_task(f"{dataset.name}: documents", total=len(uploads))

        def changed(item: Upload) -> None:
            if item.is_over and id(item) not in over:
                over.add(id(item))
                progress.advance(task)

        async def run() -> None:
            async with httpx.AsyncClient(**target.arguments()) as client:
                await upload_all(client, uploads, changed, wait=True)

        asyncio.run(run())
    entries: dict[str, list[str]] = {}
    for entry, item in zip(dataset.corpus, uploads, strict=True):
        if item.state != "ready":
            reason, detail = item.reason()
            raise CommandFailed(f"{entry.id} cannot be ingested: {detail}", reason or "NOT_READY")
        entries.setdefault(str(item.document["id"]), []).append(entry.id)
    note(f"{len(uploads)} texts are searchable after {time.monotonic() - began:.0f} s")
    return entries


def ranking(hits: list[dict[str, object]], entries: dict[str, list[str]]) -> list[str]:
    """Corpus ids in the order their documents are found first; several passages count once."""
    seen: dict[str, None] = {}
    for hit in hits:
        seen |= dict.fromkeys(entries.get(str(hit["document_id"]), []))
    return list(seen)
