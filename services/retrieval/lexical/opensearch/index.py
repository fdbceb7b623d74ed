"""What `LexicalIndex` promises, kept by an index in OpenSearch.

Writes go through an alias and name a revision, so that nothing older replaces what
is newer. What a batch takes away is found by asking: after a refresh, chunks of the
batch's versions with an older revision are left over. They become tombstones, which
refuse late writes for a day, long after OpenSearch itself has forgotten a deletion.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from opensearchpy import AsyncOpenSearch

from meshkit import clock
from meshkit.errors import InvalidInput
from services.retrieval.lexical import (
    Changes,
    LexicalHits,
    LexicalQuery,
    LexicalVersion,
    VersionKey,
)
from services.retrieval.lexical import terms as exact
from services.retrieval.lexical.analysis import (
    AROUND_SHARE,
    MAX_QUERY_WORDS,
    NEAR,
    TITLE_BOOST,
    QueryWords,
    indexed_texts,
    near,
    query_words,
    well_formed,
)
from services.retrieval.lexical.opensearch.client import WRITE_SECONDS, IndexMissing, speaking
from services.retrieval.lexical.opensearch.mapping import (
    AROUND_FIELDS,
    REMOVED,
    WORD_FIELDS,
)
from services.retrieval.lexical.opensearch.writing import Action, write

PAGE = 1000
LARGEST_KEY = 2**63 - 1
SEARCH_SECONDS = 10.0
"""Longest wait for a search whose caller set no deadline."""
TOMBSTONE_SECONDS = 86_400
"""How long a chunk that is gone refuses late writes."""
OWN_SHARE = 1 - AROUND_SHARE
FUZZINESS = f"AUTO:{NEAR[1][0]},{NEAR[0][0]}"


class OpenSearchIndex:
    """The index behind an alias; see `LexicalIndex`."""

    def __init__(self, client: AsyncOpenSearch, alias: str) -> None:
        self._client = client
        self._alias = alias

    async def apply(self, changes: Changes) -> None:
        """Writes, refreshes, then turns what is left over of older revisions into tombstones."""
        for version in changes.replace:
            for chunk in version.chunks:
                if not 0 <= chunk.key <= LARGEST_KEY:
                    raise InvalidInput("CHUNK_INVALID", f"{chunk.key} is no key of a chunk.")
        actions = [
            action for version in changes.replace for action in _chunks(version, changes.revision)
        ]
        await write(self._client, self._alias, actions)
        await self._refresh()
        while left := await self._left_over(changes):
            source = {REMOVED: int(clock.now()), "revision": changes.revision}
            await write(
                self._client,
                self._alias,
                [Action(key, routing, changes.revision, source) for key, routing in left],
            )
            await self._refresh()

    async def _refresh(self) -> None:
        """Makes everything written so far visible to searches."""
        async with speaking():
            answer = await self._client.indices.refresh(
                index=self._alias, params={"request_timeout": WRITE_SECONDS}
            )
        if not answer["_shards"]["successful"]:
            raise IndexMissing

    async def _left_over(self, changes: Changes) -> list[tuple[str, str]]:
        """Ids and routings of chunks that the changes take away, at most a page."""
        keys = [*changes.delete, *(version.key for version in changes.replace)]
        gone: list[dict[str, Any]] = []
        if keys:
            gone.append({"terms": {"version": [exact.version_term(key) for key in keys]}})
        if changes.purge:
            gone.append({"terms": {"project": list(changes.purge)}})
        if not gone:
            return []
        query = {
            "bool": {
                "filter": [
                    {"bool": {"should": gone, "minimum_should_match": 1}},
                    {"range": {"revision": {"lt": changes.revision}}},
                ],
                "must_not": {"exists": {"field": REMOVED}},
            }
        }
        projects = {*changes.purge, *(key.project_id for key in keys)}
        found = await self._ask({"query": query, "size": PAGE, "sort": ["_doc"]}, projects)
        return [(hit["_id"], hit["_routing"]) for hit in found["hits"]["hits"]]

    async def search(self, query: LexicalQuery) -> LexicalHits:
        """The best chunks by BM25; a word that no hit has is looked for once more, loosely."""
        asked = query_words(query.text)
        if query.limit <= 0 or not (asked.words or asked.pairs):
            return LexicalHits([], [])
        found = await self._best(query, asked, ())
        missing = _missing(asked, found)
        if missing:
            found = await self._best(query, asked, missing)
        return LexicalHits([int(hit["_id"]) for hit in found], [hit["_score"] for hit in found])

    async def _best(
        self, query: LexicalQuery, asked: QueryWords, loosely: Sequence[str]
    ) -> list[dict[str, Any]]:
        body = {
            "size": query.limit,
            "track_total_hits": False,
            "query": {
                "bool": {
                    "filter": _conditions(query),
                    "must": {
                        "bool": {"should": _wanted(asked, loosely), "minimum_should_match": 1}
                    },
                    "should": _around(asked, loosely),
                }
            },
        }
        answer = await self._ask(body, {query.project_id})
        hits: list[dict[str, Any]] = answer["hits"]["hits"]
        return hits

    async def projects(self) -> set[str]:
        """Projects that the index holds anything of."""
        return {name async for name, _ in self._counts("project", {"match_all": {}}, set())}

    async def inventory(self, project_id: str) -> dict[VersionKey, int]:
        """How many chunks of each version of a project the index holds."""
        ours = {"term": {"project": project_id}}
        return {
            exact.version_key(term): count
            async for term, count in self._counts("version", ours, {project_id})
        }

    async def _counts(
        self, field: str, query: Mapping[str, Any], projects: set[str]
    ) -> AsyncIterator[tuple[str, int]]:
        """Values of a keyword field and how many chunks have each, in order."""
        await self._refresh()
        after: dict[str, str] | None = None
        while True:
            composite: dict[str, Any] = {
                "size": PAGE,
                "sources": [{"value": {"terms": {"field": field}}}],
            }
            if after is not None:
                composite["after"] = after
            body = {"size": 0, "query": query, "aggs": {"values": {"composite": composite}}}
            found = (await self._ask(body, projects))["aggregations"]["values"]
            for bucket in found["buckets"]:
                yield bucket["key"]["value"], bucket["doc_count"]
            after = found.get("after_key")
            if after is None:
                return

    async def forget(self, older_than: float = TOMBSTONE_SECONDS) -> int:
        """Deletes tombstones of that many seconds; returns how many."""
        old = {"range": {REMOVED: {"lte": int(clock.now() - older_than)}}}
        forgotten = 0
        while True:
            body = {"query": old, "size": PAGE, "sort": ["_doc"], "version": True}
            hits = (await self._ask(body, set()))["hits"]["hits"]
            if not hits:
                return forgotten
            await write(
                self._client,
                self._alias,
                [Action(hit["_id"], hit["_routing"], hit["_version"], None) for hit in hits],
            )
            await self._refresh()
            forgotten += len(hits)

    async def _ask(self, body: dict[str, Any], projects: set[str]) -> dict[str, Any]:
        """A search of the shards of some projects; of all shards without any."""
        params: dict[str, Any] = {
            # Half an answer would look like a whole one.
            "allow_partial_search_results": "false",
            "request_timeout": SEARCH_SECONDS,
        }
        if projects:
            params["routing"] = ",".join(sorted(projects))
        async with speaking():
            answer: dict[str, Any] = await self._client.search(
                index=self._alias, body=body, params=params
            )
        return answer

    async def close(self) -> None:
        """Nothing to end: the client belongs to the home."""


def _chunks(version: LexicalVersion, revision: int) -> list[Action]:
    key = version.key
    shared = {
        "revision": revision,
        "project": key.project_id,
        "document": exact.joined(key.project_id, key.document_id),
        "version": exact.version_term(key),
        "visible": exact.visible_terms(version),
        "label": exact.label_terms(version),
        "title": well_formed(version.title),
    }
    return [
        Action(
            str(text.key),
            key.project_id,
            revision,
            {
                **shared,
                "words": {text.language: text.own.spaced},
                "pairs": text.own.pairs,
                "around": {text.language: text.around.spaced},
                "around_pairs": text.around.pairs,
            },
        )
        for text in indexed_texts(version)
    ]


def _conditions(query: LexicalQuery) -> list[dict[str, Any]]:
    """Filters; they add nothing to a score and are cached."""
    conditions: list[dict[str, Any]] = [{"terms": {"visible": exact.seen_by(query)}}]
    conditions += [{"term": {"label": term}} for term in exact.labels_wanted(query)]
    if query.document_ids:
        conditions.append({"terms": {"document": exact.documents_wanted(query)}})
    return conditions


def _wanted(asked: QueryWords, loosely: Sequence[str]) -> list[dict[str, Any]]:
    """What a hit must have some of: one clause a word, named after it."""
    if len(asked.words) + len(asked.pairs) > MAX_QUERY_WORDS:
        return _rarest(asked)
    clauses = []
    for word in asked.words:
        match: dict[str, Any] = {
            "query": word,
            "fields": [*(f"{field}^{OWN_SHARE}" for field in WORD_FIELDS), f"title^{TITLE_BOOST}"],
            "type": "most_fields",
            "_name": word,
        }
        if word in loosely:
            match |= {"fuzziness": FUZZINESS, "max_expansions": 20}
        clauses.append({"multi_match": match})
    return clauses + _pairs("pairs", asked, OWN_SHARE)


def _around(asked: QueryWords, loosely: Sequence[str]) -> list[dict[str, Any]]:
    """What else adds to a hit's score: the words it was found by, in the chunks beside it."""
    if len(asked.words) + len(asked.pairs) > MAX_QUERY_WORDS:
        return []
    fields = [f"{field}^{AROUND_SHARE}" for field in AROUND_FIELDS]
    return [
        {"multi_match": {"query": word, "fields": fields, "type": "most_fields"}}
        for word in asked.words
        if word not in loosely
    ] + _pairs("around_pairs", asked, AROUND_SHARE)


def _pairs(field: str, asked: QueryWords, weight: float) -> list[dict[str, Any]]:
    return [{"term": {field: {"value": pair, "boost": weight}}} for pair in asked.pairs]


def _rarest(asked: QueryWords) -> list[dict[str, Any]]:
    """Of a long query the terms that tell the most, chosen where their frequencies are known."""
    share = {"max_query_terms": MAX_QUERY_WORDS, "min_term_freq": 1, "min_doc_freq": 1}
    texts = [(list(WORD_FIELDS), " ".join(asked.words)), (["pairs"], " ".join(asked.pairs))]
    return [
        {"more_like_this": {"fields": fields, "like": text, "minimum_should_match": 1, **share}}
        for fields, text in texts
        if text
    ]


def _missing(asked: QueryWords, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Words that none of the hits has and that may be misspelt."""
    if len(asked.words) + len(asked.pairs) > MAX_QUERY_WORDS:
        return []
    had = {name for hit in found for name in hit.get("matched_queries", ())}
    return [word for word in asked.words if near(word) and word not in had]
