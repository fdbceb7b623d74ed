"""The exact terms that filter a search, alike in both back ends.

Project and principal are one term, so that a query cannot reach another project's
chunks even by mistake.
"""

from __future__ import annotations

from services.retrieval.lexical import LexicalQuery, LexicalVersion, VersionKey

SEPARATOR = "\x1f"
EVERYONE = "*"


def joined(*parts: str) -> str:
    """One term of several parts; the separator cannot be forged by a part."""
    return SEPARATOR.join(part.replace(SEPARATOR, " ") for part in parts)


def version_term(key: VersionKey) -> str:
    """The term of everything a version consists of."""
    return joined(key.project_id, key.document_id, str(key.version))


def version_key(term: str) -> VersionKey:
    """The version that a term names."""
    project_id, document_id, version = term.split(SEPARATOR)
    return VersionKey(project_id, document_id, int(version))


def visible_terms(version: LexicalVersion) -> list[str]:
    """Who may see a version."""
    return [joined(version.key.project_id, who) for who in version.allow or (EVERYONE,)]


def label_terms(version: LexicalVersion) -> list[str]:
    """The labels of a version."""
    return [joined(version.key.project_id, *pair) for pair in version.labels.items()]


def seen_by(query: LexicalQuery) -> list[str]:
    """Terms of which a chunk must have one for the searcher to see it."""
    return [joined(query.project_id, who) for who in (EVERYONE, *query.principals)]


def labels_wanted(query: LexicalQuery) -> list[str]:
    """Terms of which a chunk must have all."""
    return [joined(query.project_id, *pair) for pair in query.labels.items()]


def documents_wanted(query: LexicalQuery) -> list[str]:
    """Terms of which a chunk must have one; empty when any document will do."""
    return [joined(query.project_id, found) for found in query.document_ids]
