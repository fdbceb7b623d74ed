"""`citemesh ingest`: files, folders and globs into the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson, Data, Label, Url, parse_labels

if TYPE_CHECKING:
    from meshkit.cli.upload import Upload

Paths = Annotated[
    list[str],
    typer.Argument(metavar="PATH...", help="Files, folders, globs ('a/**/*.pdf')."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when every document is ready.")]


def ingest(
    paths: Paths,
    label: Label = None,
    wait: Wait = False,
    url: Url = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Upload documents. Exit code 1 and a table of reasons when any failed."""
    import asyncio

    import httpx

    from meshkit.cli.client import Target
    from meshkit.cli.output import print_json
    from meshkit.cli.progress import UploadProgress
    from meshkit.cli.upload import Upload, upload_all

    labels = parse_labels(label)
    files = find_files(paths)
    target = Target.find(url, data)
    uploads = [Upload(path.name, path, labels=labels) for path in files]

    async def run() -> None:
        async with httpx.AsyncClient(**target.arguments()) as client:
            with UploadProgress(uploads, wait=wait, quiet=as_json) as progress:
                await upload_all(client, uploads, progress.changed, wait=wait)

    try:
        asyncio.run(run())
    finally:
        if as_json:
            print_json([_entry(item) for item in uploads])
    failed = [item for item in uploads if item.reason()[0]]
    if not as_json:
        _report(uploads, failed, wait=wait)
    if failed:
        raise CommandFailed(
            f"{len(failed)} of {len(uploads)} documents failed.", "DOCUMENTS_FAILED"
        )


def find_files(patterns: list[str]) -> list[Path]:
    """The files that paths and globs name, each once, in a stable order.

    A folder stands for every file below it; hidden files and folders in it are left out.

    Raises:
        typer.BadParameter: one names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = _matches(pattern)
        if not matches:
            raise typer.BadParameter(f"{pattern!r} names no file", param_hint="PATH")
        found |= dict.fromkeys(matches)
    return list(found)


def _matches(pattern: str) -> list[Path]:
    import glob

    path = Path(pattern).expanduser()
    if path.is_dir():
        return _files_below(path)
    if path.exists():
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    return [match for match in matches if match.is_file()]


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _entry(item: Upload) -> dict[str, object]:
    reason, detail = item.reason()
    return {
        "path": str(item.path),
        "id": item.document.get("id"),
        "state": item.state,
        "reason": reason or None,
        "detail": detail or None,
    }


def _report(uploads: list[Upload], failed: list[Upload], *, wait: bool) -> None:
    from meshkit.cli.output import table

    done = len(uploads) - len(failed)
    chunks = sum(int(item.document.get("chunk_count") or 0) for item in uploads)
    what = f"ready, {chunks} chunks" if wait else "accepted; `citemesh documents list` shows them"
    print(f"{done} of {len(uploads)} documents {what}.")
    warned = [item for item in uploads if item.document.get("warnings")]
    for item in warned:
        print(f"{item.name}: {'; '.join(map(str, item.document['warnings']))}")
    if failed:
        rows = [(item.path, item.state, *item.reason()) for item in failed]
        table(("file", "state", "reason", "detail"), rows)
