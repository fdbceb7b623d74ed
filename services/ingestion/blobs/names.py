"""Ids as names of files and objects."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_OURS = re.compile(r"[^/]+/blob_[^/.]+")


def name_of(part: str) -> str:
    """A name for any id: nothing in it can lead out of its directory.

    Raises:
        ValueError: when the id is empty or begins with a dot.
    """
    name = quote(part, safe="")
    if not name or name.startswith("."):
        raise ValueError("this is no name of a project or a blob")
    return name


def path_of(key: str) -> str:
    """`<project>/<blob>` in names."""
    project_id, _, blob = key.partition("/")
    return f"{name_of(project_id)}/{name_of(blob)}"


def key_of(path: str) -> str:
    """The key of a path that `path_of` made."""
    project_id, _, blob = path.partition("/")
    return f"{unquote(project_id)}/{unquote(blob)}"


def is_ours(path: str) -> bool:
    """Whether a path is one that `path_of` made: nothing else in a shared place is swept."""
    return _OURS.fullmatch(path) is not None
