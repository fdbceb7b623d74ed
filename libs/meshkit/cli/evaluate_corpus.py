"""The corpus of a data set in a mesh: uploaded, searchable, and known by its own ids."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meshkit.cli.client import Client, Json, Target
from meshkit.cli.failure import CommandFailed
from meshkit.cli.output import note
from meshkit.cli.upload import Upload, upload_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.cli.beir import Entry

PAGE = 200
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


def ingest(name: str, corpus: Sequence[Entry], target: Target) -> dict[str, list[str]]:
    """Uploads a corpus and waits until it is searchable; corpus ids by document id.

    What is in the project already (the same content) is not uploaded again.

    Args:
        name: Of the data set; the documents are labelled with it.
        corpus: Texts or files.
        target: The mesh.

    Raises:
        CommandFailed: a text cannot be ingested, or the mesh is away.
    """
    uploads = [_upload(entry, name) for entry in corpus]
    there = _ready(name, target)
    for item in uploads:
        item.document = there.get(_digest(item), {})
    missing = [item for item in uploads if not item.document]
    began = time.monotonic()
    over: set[int] = set()

    with bar() as progress:
        task = progress.add_task(f"{name}: documents", total=len(missing))

        def changed(item: Upload) -> None:
            if item.is_over and id(item) not in over:
                over.add(id(item))
                progress.advance(task)

        async def run() -> None:
            async with httpx.AsyncClient(**target.arguments()) as client:
                await upload_all(client, missing, changed, wait=True)

        asyncio.run(run())
    entries: dict[str, list[str]] = {}
    for entry, item in zip(corpus, uploads, strict=True):
        if item.state != "ready":
            reason, detail = item.reason()
            raise CommandFailed(f"{entry.id} cannot be ingested: {detail}", reason or "NOT_READY")
        if item.document["labels"].get(LABEL) != name:
            raise CommandFailed(
                f"{entry.id} is in this project already and not as a part of {name}; "
                "use a key of scope admin, so that the data set gets a project of its own.",
                "DATASET_MIXED",
            )
        entries.setdefault(str(item.document["id"]), []).append(entry.id)
    note(f"{len(uploads)} texts are searchable after {time.monotonic() - began:.0f} s")
    return entries


def _ready(name: str, target: Target) -> dict[str, Json]:
    """The documents of a data set that can be found already, by the digest of their content."""
    with Client(target) as client:
        found = client.pages(
            "/v1/documents", "documents", {"label": f"{LABEL}={name}", "page_size": PAGE}
        )
        return {str(one["sha256"]): one for one in found if one["state"] == "ready"}


def _digest(item: Upload) -> str:
    content = item.content if item.path is None else item.path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _upload(entry: Entry, dataset: str) -> Upload:
    labels = {LABEL: dataset}
    if entry.path is not None:
        return Upload(entry.path.name, entry.path, labels=labels)
    return Upload(f"{entry.id}.txt", None, entry.as_file(), entry.title, labels)


def ranking(hits: list[dict[str, object]], entries: dict[str, list[str]]) -> list[str]:
    """Corpus ids in the order their documents are found first; several passages count once."""
    seen: dict[str, None] = {}
    for hit in hits:
        seen |= dict.fromkeys(entries.get(str(hit["document_id"]), []))
    return list(seen)
