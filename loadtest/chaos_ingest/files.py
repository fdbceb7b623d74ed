"""What is uploaded: small and large, of several formats, some that nobody can read.

Everything is drawn from one seed, so that a run can be repeated. Each file has a word of its
own, its marker, that no other file holds: searching for it says whether the file is found.
"""

from __future__ import annotations

import io
import random
import zipfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[2] / "tests" / "samples"
CONSONANTS = "bcdfghjklmnpqrtvwxz"
"""Markers are made of these: no stemmer changes them and no text holds them."""
VOCABULARY = (
    "archive audit boiler budget cable cellar charter clerk coast copper courier deposit"
    " engine estate ferry filter freight garden granite harbour ladder ledger machine meadow"
    " orchard parcel pension permit quarry railway register repair revenue signal station"
    " tariff tenant timber tunnel valve vessel voucher warehouse winter workshop"
)
WORDS = VOCABULARY.split()


class Fate(StrEnum):
    """What the owner of a document does with it."""

    KEPT = "kept"
    TWICE = "uploaded twice"
    """The same bytes again, under another request id."""
    IMPATIENT = "uploaded impatiently"
    """The first request is given up while it runs, and repeated with its id."""
    REPLACED = "replaced"
    REPROCESSED = "reprocessed"
    DELETED = "deleted"
    """Soon after it was acknowledged, most often while it is processed."""
    DELETED_LATE = "deleted late"
    """Once it is ready."""


FATES = {
    Fate.KEPT: 60,
    Fate.TWICE: 8,
    Fate.IMPATIENT: 8,
    Fate.REPLACED: 8,
    Fate.REPROCESSED: 4,
    Fate.DELETED: 9,
    Fate.DELETED_LATE: 3,
}


@dataclass(frozen=True, slots=True)
class File:
    """One file and what must become of it."""

    name: str
    content: bytes
    marker: str
    reasons: frozenset[str]
    """Reasons it may fail with; empty when it has to become ready."""

    @property
    def readable(self) -> bool:
        """Whether it has to become ready."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Plan:
    """A document's life."""

    file: File
    fate: Fate
    successor: File | None
    """The new version, when it is replaced."""


def plans(count: int, seed: int) -> list[Plan]:
    """The lives of `count` documents."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        fate = chance.choices(list(FATES), weights=list(FATES.values()))[0]
        name = f"{seed}-{number:04d}"
        file = _file(chance, name)
        # A file that cannot be read can only be kept or deleted: it has no ready state.
        if not file.readable and fate in (Fate.REPLACED, Fate.REPROCESSED, Fate.DELETED_LATE):
            fate = Fate.KEPT
        successor = _text(chance, f"{name}-next") if fate is Fate.REPLACED else None
        if successor is not None:
            successor = replace(successor, name=file.name)
        made.append(Plan(file, fate, successor))
    return made


def _file(chance: random.Random, name: str) -> File:
    makers = {_text: 50, _markdown: 12, _html: 12, _pdf: 8, _docx: 6, _large: 4, _broken: 8}
    maker = chance.choices(list(makers), weights=list(makers.values()))[0]
    return maker(chance, name)


def marker(chance: random.Random) -> str:
    """A word that nothing else holds."""
    return "".join(chance.choice(CONSONANTS) for _ in range(14)) + "o"


def _sentences(chance: random.Random, count: int, word: str) -> list[str]:
    """Sentences of about fourteen words; the first, middle and last name the marker."""
    made = [" ".join(chance.choice(WORDS) for _ in range(13)).capitalize() for _ in range(count)]
    for place in {0, count // 2, count - 1}:
        made[place] += f" {word}"
    return [f"{sentence}." for sentence in made]


def _text(chance: random.Random, name: str, most: int = 60) -> File:
    word = marker(chance)
    text = " ".join(_sentences(chance, chance.randint(1, most), word))
    return File(f"{name}.txt", text.encode(), word, frozenset())


def _large(chance: random.Random, name: str) -> File:
    """Some hundreds of sentences: dozens of chunks, several batches."""
    word = marker(chance)
    text = "\n\n".join(_sentences(chance, chance.randint(400, 900), word))
    return File(f"{name}.txt", text.encode(), word, frozenset())


def _markdown(chance: random.Random, name: str) -> File:
    word = marker(chance)
    parts = [f"# {name} {word}"]
    for section in range(chance.randint(1, 6)):
        parts += [f"## Part {section}", " ".join(_sentences(chance, chance.randint(2, 12), word))]
    return File(f"{name}.md", "\n\n".join(parts).encode(), word, frozenset())


def _html(chance: random.Random, name: str) -> File:
    word = marker(chance)
    body = "".join(f"<p>{s}</p>" for s in _sentences(chance, chance.randint(2, 40), word))
    page = f"<html><head><title>{name} {word}</title></head><body>{body}</body></html>"
    return File(f"{name}.html", page.encode(), word, frozenset())


def _pdf(chance: random.Random, name: str) -> File:
    """A sample with a comment after its end; its marker is in the title that is sent along."""
    content = (SAMPLES / "employee-handbook.pdf").read_bytes()
    return File(f"{name}.pdf", content + f"\n% {name}\n".encode(), marker(chance), frozenset())


def _docx(chance: random.Random, name: str) -> File:
    out = io.BytesIO((SAMPLES / "security-policy.docx").read_bytes())
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = name.encode()
    return File(f"{name}.docx", out.getvalue(), marker(chance), frozenset())


def _broken(chance: random.Random, name: str) -> File:
    """A file that is taken, because it begins like what it says, and that nobody can read."""
    word = marker(chance)
    kind = chance.randrange(3)
    if kind == 0:
        whole = (SAMPLES / "employee-handbook.pdf").read_bytes()
        cut = whole[: len(whole) // 3] + f"\n% {name}\n".encode()
        return File(f"{name}.pdf", cut, word, frozenset({"FILE_CORRUPT", "NO_TEXT"}))
    if kind == 1:
        whole = _docx(chance, name).content
        half = whole[: len(whole) // 2] + name.encode()
        return File(f"{name}.docx", half, word, frozenset({"FILE_CORRUPT"}))
    blank = (" " * chance.randint(20, 400) + "\n") * 3
    return File(f"{name}.txt", blank.encode(), word, frozenset({"NO_TEXT"}))
