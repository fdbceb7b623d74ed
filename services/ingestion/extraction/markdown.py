"""Headings of a Markdown text; the text itself stays as it was written."""

from __future__ import annotations

import re

from services.ingestion.extraction.model import HEADING_CHARACTERS, Extracted, Heading

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")


def extract(text: str) -> Extracted:
    """The text with its ATX (`## x`) and setext (underlined) headings."""
    headings = tuple(_headings(text))
    title = next((heading.title for heading in headings if heading.level == 1), "")
    return Extracted(text=text, headings=headings, title=title)


def _headings(text: str) -> list[Heading]:
    found: list[Heading] = []
    fence = ""
    position = _after_front_matter(text)
    previous, previous_start = "", position
    for line in text[position:].splitlines(keepends=True):
        bare = line.rstrip("\n")
        opened = _FENCE.match(bare)
        if opened and (not fence or bare.strip().startswith(fence)):
            fence = "" if fence else opened.group(1)
            bare = ""
        elif not fence and (atx := _ATX.match(bare)):
            if atx.group(2):
                found.append(_heading(position, len(bare), len(atx.group(1)), atx.group(2)))
            bare = ""
        elif not fence and previous.strip() and (underline := _SETEXT.match(bare)):
            level = 1 if underline.group(1)[0] == "=" else 2
            found.append(_heading(previous_start, len(previous), level, previous.strip()))
            bare = ""
        # What follows a fence or a heading must not be taken for its setext text.
        previous, previous_start = ("" if fence else bare), position
        position += len(line)
    return found


def _heading(start: int, length: int, level: int, title: str) -> Heading:
    return Heading(start, start + length, level, title[:HEADING_CHARACTERS])


def _after_front_matter(text: str) -> int:
    """Where the text begins behind a YAML block between `---` lines, if it has one."""
    if not text.startswith("---\n"):
        return 0
    end = text.find("\n---\n", 3)
    return 0 if end < 0 else end + len("\n---\n")
