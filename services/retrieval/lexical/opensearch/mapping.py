"""What an index in OpenSearch looks like: fields, analyzers, settings.

A chunk's words lie in the field of its language, `words.en` or `words.other`, so each
language has its own stemmer and its own statistics; a query asks all of them, and a
chunk answers from the one it has. `around` holds the words of the chunks beside it alike.
Texts are not stored: Postgres has them.
"""

from __future__ import annotations

from typing import Any

from services.retrieval.lexical.analysis import LONGEST_WORD, TOKEN
from services.retrieval.lexical.language import LANGUAGES, OTHER, STOP_WORDS

LAYOUT = 2
"""Raise it whenever fields or analyzers change: a release builds the index of its layout."""

STEMMERS = {
    "ar": "Arabic",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hu": "Hungarian",
    "it": "Italian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
}
"""Names of Snowball's stemmers, the ones that tantivy has too."""

WORD_FIELDS = tuple(f"words.{language}" for language in (*LANGUAGES, OTHER))
AROUND_FIELDS = tuple(f"around.{language}" for language in (*LANGUAGES, OTHER))
REMOVED = "removed_at"
"""Only a tombstone has it: a chunk that is gone and must not come back with a late write."""


def body(generation: str, shards: int) -> dict[str, Any]:
    """Settings and mappings of a new index.

    Args:
        generation: Id of the database whose chunks it will hold.
        shards: Number of primary shards; a project lies in one.
    """
    return {
        "settings": {
            "index": {
                "number_of_shards": shards,
                # None on a single node, one as soon as there are two.
                "auto_expand_replicas": "0-1",
                # Searches see what was refreshed by hand before `ready` is said.
                "refresh_interval": "30s",
                # What tantivy computes with.
                "similarity": {"default": {"type": "BM25", "k1": 1.2, "b": 0.75}},
                "analysis": _analysis(),
            }
        },
        "mappings": {
            "_meta": {"generation": generation, "layout": LAYOUT},
            "_source": {"enabled": False},
            "_routing": {"required": True},
            "dynamic": "strict",
            "properties": {
                "key": {"type": "long"},
                "revision": {"type": "long"},
                REMOVED: {"type": "date", "format": "epoch_second"},
                **{name: {"type": "keyword"} for name in ("project", "document")},
                **{
                    name: {"type": "keyword"} | ({} if name == "version" else _ONLY_FILTERED)
                    for name in ("version", "visible", "label")
                },
                "title": _text(OTHER),
                **{
                    field: {"properties": {name: _text(name) for name in (*LANGUAGES, OTHER)}}
                    for field in ("words", "around")
                },
                **{field: _text("whitespace") for field in ("pairs", "around_pairs")},
            },
        },
    }


_ONLY_FILTERED = {"doc_values": False}


def _text(analyzer: str) -> dict[str, Any]:
    """A field that BM25 reads; no phrases are searched, so no positions are kept."""
    name = analyzer if analyzer == "whitespace" else f"words_{analyzer}"
    return {"type": "text", "analyzer": name, "index_options": "freqs"}


def _analysis() -> dict[str, Any]:
    analyzers: dict[str, Any] = {
        f"words_{OTHER}": {
            "type": "custom",
            "tokenizer": "runs",
            "filter": ["lowercase", "not_too_long", "asciifolding"],
        }
    }
    filters: dict[str, Any] = {"not_too_long": {"type": "length", "max": LONGEST_WORD}}
    for language in LANGUAGES:
        filters[f"stop_{language}"] = {"type": "stop", "stopwords": list(STOP_WORDS[language])}
        filters[f"stem_{language}"] = {"type": "snowball", "language": STEMMERS[language]}
        analyzers[f"words_{language}"] = {
            "type": "custom",
            "tokenizer": "runs",
            "filter": [
                "lowercase",
                "not_too_long",
                f"stop_{language}",
                f"stem_{language}",
                # Last: suffixes of many languages have accents.
                "asciifolding",
            ],
        }
    return {
        "tokenizer": {"runs": {"type": "pattern", "pattern": TOKEN, "group": 0}},
        "filter": filters,
        "analyzer": analyzers,
    }
