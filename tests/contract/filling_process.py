"""Fills spaces in a process of its own, to be killed: `python -m tests.contract.filling_process`.

Each text that is embedded is a line of the file named by the second argument, written
before the call returns: what was paid for, whatever becomes of it. Calls wait while the
file named by the third argument exists.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from meshkit.database.pool import Database
from services.embedding.registry import SpaceRegistry
from services.retrieval.filling.filler import Filler
from services.retrieval.filling.registry import KnownSpace
from services.retrieval.filling.work import SpaceWork
from services.retrieval.passages import Vectors
from tests.contract.filling_room import OLD, SAME, Models, policy

LEASE_SECONDS = 1.0


class PaidModels(Models):
    """Notes what is paid for in a file."""

    paid: Path
    held: Path

    async def embed(
        self, project_id: str, space: KnownSpace, texts: Sequence[str]
    ) -> tuple[Vectors, str]:
        with self.paid.open("a") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        if len(self.paid.read_text().splitlines()) > 8:
            while self.held.exists():
                await asyncio.sleep(0.02)
        return await super().embed(project_id, space, texts)


async def main(dsns: dict[str, str], paid: Path, held: Path) -> None:
    """Fills until it is ended."""
    embedding = await Database.connect(dsns["embedding"], role="citemesh_embedding", size=1)
    retrieval = await Database.connect(dsns["retrieval"], role="citemesh_retrieval", size=4)
    models = PaidModels(SpaceRegistry(embedding), (OLD, SAME))
    models.paid, models.held = paid, held
    work = SpaceWork(retrieval, "a process", timedelta(seconds=LEASE_SECONDS))
    await Filler(work, models, policy(LEASE_SECONDS)).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
