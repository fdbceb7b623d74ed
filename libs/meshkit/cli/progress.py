"""A progress bar per document while it is on its way; one line each where there is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from meshkit.cli.output import shorten
from meshkit.cli.upload import Upload

NAME_WIDTH = 36
STAGES = ("scan", "extract", "chunk", "embed", "index", "activate")


class UploadProgress:
    """Shows how uploads go on.

    Args:
        wait: documents are followed until they are ready; otherwise to their acceptance.
        quiet: show nothing.
    """

    def __init__(self, uploads: list[Upload], *, wait: bool, quiet: bool) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._wait = wait
        self._tasks: dict[int, TaskID] = {}
        self._finished: set[int] = set()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._all = self._progress.add_task("all documents", total=len(uploads), stage="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def changed(self, item: Upload) -> None:
        """Shows the item as it is now."""
        over = item.is_over or (not self._wait and bool(item.document))
        if over:
            self._finish(item)
        elif self._live:
            self._show(item)

    def _show(self, item: Upload) -> None:
        if id(item) not in self._tasks:
            name = shorten(item.name, NAME_WIDTH).ljust(NAME_WIDTH)
            self._tasks[id(item)] = self._progress.add_task(name, total=1.0, stage="")
        stage = str(item.document.get("stage") or item.state)
        self._progress.update(self._tasks[id(item)], completed=completion(item), stage=stage)

    def _finish(self, item: Upload) -> None:
        if id(item) in self._finished:
            return
        self._finished.add(id(item))
        if id(item) in self._tasks:
            self._progress.remove_task(self._tasks.pop(id(item)))
        self._progress.advance(self._all)
        if not self._quiet:
            reason = item.reason()[0]
            line = f"{shorten(item.name, 60)}: {item.state}{f' ({reason})' if reason else ''}"
            self._progress.console.print(Text(line))


def completion(item: Upload) -> float:
    """How far a document is, 0 to 1: the stages weigh the same except embedding, the longest."""
    if item.state == "ready":
        return 1.0
    stage = str(item.document.get("stage") or "")
    if stage not in STAGES:
        return 0.0
    weights = [1.0, 2.0, 1.0, 12.0, 2.0, 1.0]
    index = STAGES.index(stage)
    progress = item.document.get("progress") or {}
    total = int(progress.get("total") or 0)
    share = min(int(progress.get("done") or 0) / total, 1.0) if total else 0.0
    return (sum(weights[:index]) + weights[index] * share) / sum(weights)
