"""Names of files and titles as they are stored and shown: labels, never paths. Pure.

A name decides nothing here: files lie under ids of our own, and a file's type is told by
its content. But people read names, in citations and consoles, so a name must be what it
looks like and must not drive what shows it.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath, PureWindowsPath

NAMELESS = "document"
LONGEST_NAME_BYTES = 255
"""In UTF-8, what file systems take."""
LONGEST_TITLE = 1024
"""Characters; what retrieval takes."""

_DROPPED = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
"""Controls, marks without a shape of their own (among them those that turn the direction of
writing), halves of characters, and code points that mean nothing."""
_SPELLING = "\u200c\u200d\u200e\u200f"
"""Joiners and direction marks that Persian, Hindi, Hebrew or an emoji cannot do without."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
"""Names that mean a device on Windows, whatever their extension."""


def one_line(text: str) -> str:
    """The text as one line that reads as it is written."""
    shown = (
        " "
        if character.isspace()
        else ""
        if unicodedata.category(character) in _DROPPED and character not in _SPELLING
        else character
        for character in unicodedata.normalize("NFC", text)
    )
    return " ".join("".join(shown).split())


def file_name(given: str) -> str:
    """The name to store for what a caller calls its file.

    Without its path, in whichever system's spelling; at most `LONGEST_NAME_BYTES`, the
    extension kept; `NAMELESS` when nothing is left.
    """
    name = one_line(PurePath(PureWindowsPath(given).name).name)
    # A name that begins or ends with dots or spaces is hidden, or loses them, somewhere.
    name = name.strip(". ")
    if not name.strip(_SPELLING):
        return NAMELESS
    if _RESERVED.match(name):
        name = f"_{name}"
    return _shortened(name)


def title_of(given: str, found: str, name: str) -> str:
    """Title to show: as given, else from the file's metadata, else the file name."""
    return next(filter(None, map(one_line, (given, found, name))), NAMELESS)[:LONGEST_TITLE]


def _shortened(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME_BYTES:
        return name
    suffix = PurePath(name).suffix
    suffix = suffix if len(suffix) <= 16 else ""
    room = LONGEST_NAME_BYTES - len(suffix.encode())
    stem = name.removesuffix(suffix).encode()[:room].decode(errors="ignore")
    return stem.rstrip(". ") + suffix
