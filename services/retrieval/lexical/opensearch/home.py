"""Which index in OpenSearch is the current one, and putting a new one in its place.

    <prefix>-<database>-<layout>            alias: what is searched and written
    <prefix>-<database>-<layout>-<id>       an index
    <prefix>-<database>-<layout>-<id>-new   alias that a new index is filled through

Database and layout are part of the names: two meshes never share an index, and two
releases that run side by side each keep their own.
"""

from __future__ import annotations

from typing import Any

from opensearchpy import AsyncOpenSearch

from meshkit.ids import new_id
from meshkit.logging import logger
from services.retrieval.lexical import Draft
from services.retrieval.lexical.opensearch.client import speaking
from services.retrieval.lexical.opensearch.index import OpenSearchIndex
from services.retrieval.lexical.opensearch.mapping import LAYOUT, body

log = logger(__name__)

CREATE_SECONDS = 60.0


class OpenSearchHome:
    """The indexes of one database; owns the client."""

    def __init__(
        self, client: AsyncOpenSearch, *, prefix: str, generation: str, shards: int
    ) -> None:
        self._client = client
        self._generation = generation
        self._shards = shards
        self.alias = f"{prefix}-{generation.replace('-', '')[:12]}-{LAYOUT}"
        self.index = OpenSearchIndex(client, self.alias)

    async def exists(self) -> bool:
        """Whether there is a current index."""
        async with speaking():
            return bool(await self._client.indices.exists_alias(name=self.alias))

    async def fresh(self) -> Draft:
        """A new, empty index beside the current one."""
        name = f"{self.alias}-{new_id('index').rpartition('_')[2].lower()}"
        content = body(self._generation, self._shards) | {"aliases": {f"{name}-new": {}}}
        async with speaking():
            await self._client.indices.create(
                index=name, body=content, params={"request_timeout": CREATE_SECONDS}
            )
        return Draft(name, OpenSearchIndex(self._client, f"{name}-new"))

    async def publish(self, draft: Draft) -> OpenSearchIndex:
        """Moves the alias in one step; everyone who searches finds the new index."""
        async with speaking():
            await self._client.indices.update_aliases(
                body={
                    "actions": [
                        {
                            "remove": {
                                "index": f"{self.alias}-*",
                                "alias": self.alias,
                                "must_exist": False,
                            }
                        },
                        {"add": {"index": draft.name, "alias": self.alias}},
                    ]
                }
            )
        return self.index

    async def sweep(self, building: str = "") -> None:
        """Deletes the indexes that are neither current nor being built."""
        async with speaking():
            found: dict[str, Any] = await self._client.indices.get_alias(index=f"{self.alias}-*")
            for name, entry in found.items():
                if name != building and self.alias not in entry["aliases"]:
                    await self._client.indices.delete(
                        index=name, params={"ignore_unavailable": "true"}
                    )
                    log.info("lexical index deleted", index=name)

    async def tidy(self) -> None:
        """Forgets tombstones that no late write can be waiting for any more."""
        await self.index.forget()

    async def close(self) -> None:
        """Closes the client's connections."""
        await self._client.close()
