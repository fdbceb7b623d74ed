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
from dataclasses import dataclass
from pathlib import Path

from meshkit.database.pool import Database
from meshkit.ids import new_id
from meshkit.logging import logger
from services.retrieval.lexical import Draft, LexicalIndex
from services.retrieval.lexical.tantivy_index import LAYOUT, TantivyIndex
from services.retrieval.outbox import fill

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

    async def exists(self) -> bool:
        """Whether there is a current index."""
        return await asyncio.to_thread(self.current) is not None

    async def fresh(self) -> Draft:
        """A new, empty index in a directory of its own."""
        name = new_id("index").replace("_", "-")
        return Draft(name, await asyncio.to_thread(TantivyIndex, self.root / name))

    async def publish(self, draft: Draft) -> LexicalIndex:
        """Names the draft in `current.json`, in one step."""
        await asyncio.to_thread(self._publish, draft.name)
        return draft.index

    def _publish(self, name: str) -> None:
        content = {"index": name, "generation": self.generation, "layout": LAYOUT}
        temporary = self.root / f"{CURRENT}.tmp"
        temporary.write_text(json.dumps(content))
        temporary.replace(self.root / CURRENT)

    async def sweep(self, building: str = "") -> None:
        """Deletes every index but the current one and the one named."""
        await asyncio.to_thread(self._sweep, building)

    def _sweep(self, building: str) -> None:
        keep = (self.current(), self.root / building)
        for found in self.root.glob("index-*"):
            if found not in keep:
                shutil.rmtree(found, ignore_errors=True)

    async def close(self) -> None:
        """Nothing is open but the index."""

    async def tidy(self) -> None:
        """Nothing: tantivy merges its segments by itself."""


async def generation(database: Database) -> str:
    """Id of the database; an index of another one is not ours."""
    async with database.connection() as connection:
        found = await connection.fetchval("SELECT generation FROM retrieval.lexical_generation")
    return str(found)


async def open_home(root: Path, database: Database) -> Home:
    """The home of the index of this database."""
    await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
    return Home(root, await generation(database))


async def open_index(home: Home, database: Database) -> LexicalIndex:
    """The current index, built from Postgres first when there is none that fits.

    Raises:
        IndexBusy: when another process writes to it.
    """
    current = home.current()
    if current is not None:
        try:
            index: LexicalIndex = TantivyIndex(current)
        except ValueError:
            log.exception("lexical index cannot be opened, building it anew")
        else:
            await home.sweep()
            return index
    draft = await home.fresh()
    log.info("building the lexical index from Postgres")
    done = 0
    async for progress in fill(database, draft.index):
        done = progress.done
    index = await home.publish(draft)
    await home.sweep()
    log.info("lexical index built", chunks=done)
    return index
