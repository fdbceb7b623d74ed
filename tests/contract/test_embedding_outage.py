"""Postgres goes away under running model services: questions go on, no token is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from citemesh.embedding import v1
from citemesh.rerank import v1 as rerank_v1
from meshkit.components import RUNTIME_ROLES
from meshkit.context import acting_as
from meshkit.database.bootstrap import bootstrap
from meshkit.database.migrate import migrate
from meshkit.errors import Unavailable
from meshkit.ids import new_id
from meshkit.supervisor.postgres import DATABASE, RunningPostgres, create_database
from tests.contract.service_process import Keys, eventually, running


class OwnPostgres:
    """A Postgres that a test may stop and start."""

    def __init__(self, directory: Path) -> None:
        self._running = RunningPostgres(directory, RUNTIME_ROLES)
        self._running.__enter__()
        self.cluster = self._running.cluster

    async def prepare(self) -> None:
        await create_database(self.cluster.maintenance_dsn, DATABASE)
        await bootstrap(self.cluster.admin_dsn, self.cluster.passwords)
        await migrate(self.cluster.admin_dsn)

    def dsn(self, service: str) -> str:
        return self.cluster.dsn(f"citemesh_{service}")

    def stop(self) -> None:
        self._running.stop()

    def start_again(self) -> None:
        self._running.__enter__()


@pytest.fixture
def own_postgres(scratch: Path) -> Iterator[OwnPostgres]:
    opened = OwnPostgres(scratch / "outage")
    yield opened
    opened.stop()


async def test_questions_go_on_without_postgres_and_their_tokens_arrive_later(
    own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    await own_postgres.prepare()
    keys, project = Keys(tmp_path), new_id("prj")
    async with (
        running("embedding", own_postgres, keys) as embedding,
        running("rerank", own_postgres, keys) as rerank,
    ):
        embed = v1.EmbeddingServiceAsyncStub(embedding.channel)
        score = rerank_v1.RerankServiceAsyncStub(rerank.channel)
        passages = [rerank_v1.Passage(id="a", text="an answer")]
        own_postgres.stop()
        with acting_as(keys.service(project)):
            for text in ("first", "second"):
                request = v1.EmbedRequest(texts=[text], task=v1.EMBED_TASK_QUERY)
                assert len((await embed.Embed(request, timeout=5)).vectors) == 1
            response = await score.Rerank(
                rerank_v1.RerankRequest(query="a question", passages=passages), timeout=5
            )
            assert response.complete
            with pytest.raises(Unavailable) as caught:
                await embed.PurgeProject(v1.PurgeProjectRequest(project_id=project), timeout=20)
            assert caught.value.reason == "DATABASE_UNAVAILABLE"
            own_postgres.start_again()

            async def all_are_in_the_ledger() -> bool:
                connection = await asyncpg.connect(own_postgres.cluster.admin_dsn)
                rows = await connection.fetch(
                    "SELECT stage FROM usage.ledger WHERE project_id = $1 ORDER BY stage", project
                )
                await connection.close()
                return [row["stage"] for row in rows] == ["embed", "embed", "rerank"]

            assert await eventually(all_are_in_the_ledger, 30)
            assert await embed.PurgeProject(v1.PurgeProjectRequest(project_id=project), timeout=5)
