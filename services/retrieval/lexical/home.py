"""Where the embedded index lives: which directory is current, and building anew.

    <lexical_dir>/current.json     which index is open, its generation and layout
    <lexical_dir>/index-<id>/      an index

An index counts only when `current.json` names it with the generation that the
database holds and the layout of this code: an index of another database, of
another release or half built is never searched. Postgres has everything, so it is
built anew.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshkit.database.pool import Database
from meshkit.ids import new_id
from meshkit.logging import logger
from services.retrieval.lexical.tantivy_index import LAYOUT, TantivyIndex
from services.retrieval.outbox import LexicalProjection

log = logger(__name__)

CURRENT = "current.json"


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of the embedded index, for one database."""

    root: Path
    generation: str
    """Id of the database the index belongs to."""

    def current(self) -> Path | None:
        """The index that fits database and code; None when there is none."""
        try:
            content = json.loads((self.root / CURRENT).read_text())
        except (OSError, ValueError):
            return None
        expected = {"generation": self.generation, "layout": LAYOUT}
        if not isinstance(content, dict) or not expected.items() <= content.items():
            return None
        found = self.root / str(content.get("index", ""))
        return found if found.parent == self.root and found.is_dir() else None

    def fresh(self) -> tuple[Path, Callable[[], None]]:
        """A directory for a new index, and what makes it the current one."""
        name = new_id("index").replace("_", "-")

        def publish() -> None:
            content = {"index": name, "generation": self.generation, "layout": LAYOUT}
            temporary = self.root / f"{CURRENT}.tmp"
            temporary.write_text(json.dumps(content))
            temporary.replace(self.root / CURRENT)

        return self.root / name, publish

    def sweep(self) -> None:
        """Deletes every index but the current one."""
        keep = self.current()
        for found in self.root.glob("index-*"):
            if found != keep:
                shutil.rmtree(found, ignore_errors=True)


async def open_home(root: Path, database: Database) -> Home:
    """The home of the index of this database."""
    async with database.connection() as connection:
        generation = await connection.fetchval(
            "SELECT generation FROM retrieval.lexical_generation"
        )
    await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
    return Home(root, str(generation))


async def open_index(home: Home, database: Database) -> TantivyIndex:
    """The current index, built from Postgres first when there is none that fits.

    Raises:
        IndexBusy: when another process writes to it.
    """
    current = home.current()
    if current is not None:
        try:
            index = TantivyIndex(current)
        except ValueError:
            log.exception("lexical index cannot be opened, building it anew")
        else:
            home.sweep()
            return index
    directory, publish = home.fresh()
    index = TantivyIndex(directory)
    log.info("building the lexical index from Postgres")
    done = 0
    async for progress in LexicalProjection(database, index).fill(index):
        done = progress.done
    publish()
    home.sweep()
    log.info("lexical index built", chunks=done)
    return index
