"""The embedded lexical index: tantivy in a directory of this process.

One writer, so one process per directory. Queries are built from terms, never
parsed. The terms of all languages share one field, each made by the analyzer of its
chunk's language: statistics for BM25 are those of the whole index, and a second
field that few chunks have would give it a wrong average length. A query's word
stands for what each language of the project makes of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tantivy
from tantivy import (
    Document,
    Filter,
    Index,
    Occur,
    Query,
    SchemaBuilder,
    TextAnalyzer,
    TextAnalyzerBuilder,
    Tokenizer,
)

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
    TITLE_BOOST,
    TOKEN,
    Words,
    indexed_texts,
    near,
    query_words,
    well_formed,
)
from services.retrieval.lexical.language import LANGUAGES, OTHER, STOP_WORDS

LAYOUT = 3
"""Raise it whenever fields or analyzers change: an index of another layout is rebuilt."""
LONGEST_TERM = 256
"""Bytes."""
LAZY_TERMS = 32
WRITER_MEMORY = 64_000_000
STEMMERS = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "tr": "turkish",
}


class IndexBusy(RuntimeError):
    """Another process writes to this directory."""


def _schema() -> tantivy.Schema:
    builder = SchemaBuilder()
    builder.add_integer_field("key", fast=True)
    for name in ("project", "version", "visible", "label", "document", "language"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    for name in ("words", "around"):
        builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
    builder.add_text_field("title", tokenizer_name=OTHER, index_option="freq")
    return builder.build()


def _analyzer(language: str) -> TextAnalyzer:
    builder = (
        TextAnalyzerBuilder(Tokenizer.regex(TOKEN))
        .filter(Filter.remove_long(LONGEST_TERM))
        .filter(Filter.lowercase())
    )
    if language != OTHER:
        builder = builder.filter(Filter.custom_stopword(list(STOP_WORDS[language])))
        builder = builder.filter(Filter.stemmer(STEMMERS[language]))
    # Last: suffixes of many languages have accents.
    return builder.filter(Filter.ascii_fold()).build()


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a query and the terms it may have become."""

    text: str
    terms: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query looks for."""

    own: list[Query]
    """A hit matches one of these at least."""
    around: list[Query]
    """What else adds to its score: the same words in the chunks beside it."""


class TantivyIndex:
    """A lexical index in a directory; see `LexicalIndex`."""

    def __init__(self, directory: Path | None) -> None:
        """Opens or creates the index.

        Args:
            directory: Where it lies; None keeps it in memory.

        Raises:
            IndexBusy: when another process has it open for writing.
            ValueError: when the directory holds something that is no index.
        """
        self._schema = _schema()
        if directory is None:
            self._index = Index(self._schema)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            self._index = Index(self._schema, path=str(directory), reuse=True)
        self._analyzers = {language: _analyzer(language) for language in (*LANGUAGES, OTHER)}
        self._index.register_tokenizer(OTHER, self._analyzers[OTHER])
        whitespace = TextAnalyzerBuilder(Tokenizer.whitespace()).build()
        self._index.register_tokenizer("whitespace", whitespace)
        # Reloaded by hand after each commit: an acknowledged write is visible at once.
        self._index.config_reader(reload_policy="manual")
        try:
            self._writer = self._index.writer(heap_size=WRITER_MEMORY, num_threads=1)
        except ValueError as error:
            if "lock" not in str(error).lower():
                raise
            raise IndexBusy(f"{directory} is being written by another process.") from error
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="lexical-write")
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="lexical-read")
        self._index.reload()
        self._searcher = self._index.searcher()

    async def apply(self, changes: Changes) -> None:
        """Deletes, then adds, commits and shows the result to later searches; all or nothing."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._apply, changes)

    def _apply(self, changes: Changes) -> None:
        try:
            for project_id in changes.purge:
                self._writer.delete_documents_by_term("project", project_id)
            for key in changes.delete:
                self._writer.delete_documents_by_term("version", exact.version_term(key))
            for version in changes.replace:
                self._replace(version)
            self._writer.commit()
        except BaseException:
            self._writer.rollback()
            raise
        self._index.reload()
        self._searcher = self._index.searcher()

    def _replace(self, version: LexicalVersion) -> None:
        key = version.key
        term = exact.version_term(key)
        self._writer.delete_documents_by_term("version", term)
        document_term = exact.joined(key.project_id, key.document_id)
        visible, labels = exact.visible_terms(version), exact.label_terms(version)
        title = well_formed(version.title)
        for text in indexed_texts(version):
            document = Document()
            document.add_integer("key", text.key)
            document.add_text("project", key.project_id)
            document.add_text("version", term)
            document.add_text("document", document_term)
            document.add_text("language", exact.joined(key.project_id, text.language))
            for value in visible:
                document.add_text("visible", value)
            for value in labels:
                document.add_text("label", value)
            document.add_text("title", title)
            document.add_text("words", self._terms_of(text.own, text.language))
            document.add_text("around", self._terms_of(text.around, text.language))
            self._writer.add_document(document)

    def _terms_of(self, words: Words, language: str) -> str:
        return f"{' '.join(self._analyzers[language].analyze(words.spaced))} {words.pairs}"

    async def search(self, query: LexicalQuery) -> LexicalHits:
        """The best chunks by BM25; a query without a known term finds nothing."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self.search_now, query)

    def search_now(self, query: LexicalQuery) -> LexicalHits:
        """`search`, on the calling thread."""
        searcher = self._searcher
        if query.limit <= 0:
            return LexicalHits([], [])
        conditions = self._conditions(query)
        wanted = self._wanted(query, searcher, conditions)
        if not wanted.own:
            return LexicalHits([], [])
        any_word = Query.boolean_query([(Occur.Should, part) for part in wanted.own])
        parts = [*((Occur.Must, part) for part in conditions), (Occur.Must, any_word)]
        parts += [(Occur.Should, part) for part in wanted.around]
        found = searcher.search(Query.boolean_query(parts), limit=query.limit, count=False).hits
        keys = searcher.fast_field_values("key", [address for _, address in found])
        return LexicalHits([int(key or 0) for key in keys], [float(score) for score, _ in found])

    def _conditions(self, query: LexicalQuery) -> list[Query]:
        """Filters; they add nothing to a score."""
        conditions = [self._any_of("visible", exact.seen_by(query))]
        conditions += [
            Query.term_query(self._schema, "label", term, "basic")
            for term in exact.labels_wanted(query)
        ]
        if query.document_ids:
            conditions.append(self._any_of("document", exact.documents_wanted(query)))
        return [Query.const_score_query(condition, 0.0) for condition in conditions]

    def _any_of(self, field: str, terms: list[str]) -> Query:
        """One of the terms, walked lazily: a set query visits every document first.

        With 20k chunks that is 0.16 ms against 0.47 ms. A long list is faster as a set.
        """
        if len(terms) > LAZY_TERMS:
            return Query.term_set_query(self._schema, field, terms)
        found = [Query.term_query(self._schema, field, term, "basic") for term in terms]
        return Query.boolean_query([(Occur.Should, query) for query in found])

    def _wanted(
        self, query: LexicalQuery, searcher: tantivy.Searcher, conditions: Sequence[Query]
    ) -> _Wanted:
        """The query's words, or what is near a missing one."""
        wanted = _Wanted([], [])
        for word in self._words(query, searcher):
            found = [term for term in word.terms if searcher.doc_freq("words", term)]
            distance = near(word.text)
            if distance and not self._occurs(found, searcher, conditions):
                wanted.own.extend(self._near(word.terms[0], distance, searcher, conditions))
                continue
            for term in found:
                wanted.own.append(self._counting("words", term, 1 - AROUND_SHARE))
                wanted.around.append(self._counting("around", term, AROUND_SHARE))
            for term in self._analyzers[OTHER].analyze(word.text):
                wanted.own.append(self._counting("title", term, TITLE_BOOST))
        return wanted

    def _counting(self, field: str, term: str, weight: float) -> Query:
        """A term in a field, whose score counts so much."""
        return Query.boost_query(Query.term_query(self._schema, field, term, "freq"), weight)

    def _words(self, query: LexicalQuery, searcher: tantivy.Searcher) -> list[_Word]:
        """The query's words as terms, the rarest ones when there are too many."""
        languages = [
            language
            for language in self._analyzers
            if searcher.doc_freq("language", exact.joined(query.project_id, language))
        ]
        asked = query_words(query.text)
        words = []
        for text in asked.words:
            made = (self._analyzers[language].analyze(text) for language in languages)
            terms = list(dict.fromkeys(term for found in made for term in found))
            if terms:
                words.append(_Word(text, terms))
        words += [_Word(pair, [pair]) for pair in asked.pairs]
        if len(words) > MAX_QUERY_WORDS:
            counted = [(max(searcher.doc_freq("words", t) for t in w.terms), w) for w in words]
            known = sorted((entry for entry in counted if entry[0]), key=lambda entry: entry[0])
            words = [word for _, word in known[:MAX_QUERY_WORDS]]
        return words

    def _occurs(
        self, terms: Sequence[str], searcher: tantivy.Searcher, conditions: Sequence[Query]
    ) -> bool:
        """True when a chunk that may be seen has one of the terms."""
        if not terms:
            return False
        return self._matches(self._any_of("words", list(terms)), searcher, conditions, limit=1) > 0

    def _near(
        self,
        term: str,
        distance: int,
        searcher: tantivy.Searcher,
        conditions: Sequence[Query],
    ) -> list[Query]:
        """The terms at the least distance that occur, weighed as if they were one rare word."""
        for edits in range(1, distance + 1):
            query = Query.fuzzy_term_query(self._schema, "words", term, edits)
            count = self._matches(query, searcher, conditions)
            if count:
                total = max(searcher.num_docs, count)
                weight = math.log(1 + (total - count + 0.5) / (count + 0.5))
                return [Query.const_score_query(query, weight)]
        return []

    def _matches(
        self,
        query: Query,
        searcher: tantivy.Searcher,
        conditions: Sequence[Query],
        limit: int = 0,
    ) -> int:
        """Visible chunks that match; with a limit, no more than that many are looked for."""
        parts = [(Occur.Must, part) for part in (*conditions, query)]
        found = searcher.search(Query.boolean_query(parts), limit=max(limit, 1), count=not limit)
        # Its type stub forgets the count.
        return len(found.hits) if limit else int(found.count)  # type: ignore[attr-defined]

    async def projects(self) -> set[str]:
        """Projects that the index holds anything of."""
        return set(await self._terms("project", "", Query.all_query()))

    async def inventory(self, project_id: str) -> dict[VersionKey, int]:
        """How many chunks of each version of a project the index holds."""
        ours = Query.term_query(self._schema, "project", project_id, "basic")
        found = await self._terms("version", exact.joined(project_id, ""), ours)
        return {exact.version_key(term): count for term, count in found.items()}

    async def _terms(self, field: str, prefix: str, where: Query) -> dict[str, int]:
        """Terms of living chunks and how many chunks hold each; deleted ones count for none."""

        def read() -> dict[str, int]:
            found = self._searcher.terms_with_prefix(field, prefix, where)
            return {term: count for term, count in found if count}

        return await asyncio.get_running_loop().run_in_executor(self._reading, read)

    @property
    def chunk_count(self) -> int:
        """Chunks in the index, of whatever version."""
        return int(self._searcher.num_docs)

    async def close(self) -> None:
        """Waits for writes in flight and gives the directory free."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writing.shutdown(wait=True)
        self._reading.shutdown(wait=True)
        self._writer.wait_merging_threads()
