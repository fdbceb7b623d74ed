"""Text recognition of one page at a time, by tesseract in a process of its own.

Pages come as greyscale pixels and go through a pipe; nothing is written to disk.
Tesseract inherits the reader's memory limit, has a limit of processor time per
page, and dies with the reader.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import FileRefused
from services.ingestion.extraction.recognised import Box, Line, arranged

DPI = 300
"""Resolution that tesseract was trained on."""
_MOST_PIXELS = 40_000_000
_SURE = 70.0
"""Mean confidence, of 100, from which a reading is taken without trying another."""
_WORTHLESS = 30.0
"""Words below are specks and rules of the page taken for letters."""
_PR_SET_PDEATHSIG = 1
INSTALL = "install tesseract (on Debian: apt install tesseract-ocr)"


@dataclass(frozen=True, slots=True)
class OcrPolicy:
    """How pages are recognised."""

    languages: tuple[str, ...] = ("eng+deu+fra", "chi_sim")
    """Tesseract's names; the next group is tried when the one before reads badly."""
    page_seconds: float = 60.0
    """Processor time of one reading of one page."""
    most_pages: int = 2000
    """Pages of one document that are recognised; the rest is left out with a warning."""


@dataclass(frozen=True, slots=True)
class Raster:
    """A page as pixels, one byte each, row after row, white 255."""

    width: int
    height: int
    pixels: bytes

    @property
    def blank(self) -> bool:
        """Whether it has one colour only."""
        return not self.pixels or self.pixels.count(self.pixels[0]) == len(self.pixels)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one run of tesseract saw."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Missing:
    """What a machine lacks for recognising pages."""

    program: bool
    languages: tuple[str, ...]


class Recogniser:
    """Recognises pages of one document.

    Args:
        policy: How.
        before_page: Told the seconds that the page about to be read may take.
    """

    def __init__(self, policy: OcrPolicy, before_page: Callable[[float], None]) -> None:
        self._policy = policy
        self._before_page = before_page
        self._pages = 0
        self._first = 0
        """Which group of languages read the last page well."""

    @cached_property
    def _groups(self) -> list[str]:
        return _usable(self._policy.languages, installed())

    @property
    def available(self) -> bool:
        """Whether there is a tesseract with a language."""
        return bool(self._groups)

    @property
    def exhausted(self) -> bool:
        """Whether the document has had all the pages it may."""
        return self._pages >= self._policy.most_pages

    def read(self, page: Raster) -> str:
        """The text of a page; empty for one without any.

        Raises:
            FileRefused: OCR_UNAVAILABLE.
        """
        if not self.available:
            raise unavailable()
        if page.blank:
            return ""
        self._pages += 1
        image = b"P5 %d %d 255\n" % (page.width, page.height) + page.pixels
        best = _Reading("", -1.0)
        for group, mode in self._attempts():
            # A page takes as long in the clock as the machine is busy.
            self._before_page(self._policy.page_seconds * 2)
            found = _run(image, self._groups[group], mode, self._policy.page_seconds)
            if found.confidence > best.confidence:
                best = found
                self._first = group
            if best.confidence >= _SURE:
                break
        return best.text

    def _attempts(self) -> list[tuple[int, int]]:
        """Groups and tesseract's page segmentation: 3 is its usual one, 1 turns the page too."""
        others = [number for number in range(len(self._groups)) if number != self._first]
        return [(self._first, 3), (self._first, 1), *((number, 1) for number in others)]


def scale(width: float, height: float) -> float:
    """Pixels a point for a page of so many points: 300 dpi, less for a poster."""
    wanted = DPI / 72
    return min(wanted, math.sqrt(_MOST_PIXELS / max(1.0, width * height)))


def missing(policy: OcrPolicy) -> Missing:
    """What of the policy this machine cannot do, for a line when the service starts."""
    there = installed()
    wanted = [name for group in policy.languages for name in group.split("+")]
    return Missing(not there, tuple(name for name in wanted if name not in there))


def installed() -> frozenset[str]:
    """Languages of this machine's tesseract; empty without one."""
    program = shutil.which("tesseract")
    if program is None:
        return frozenset()
    listed = subprocess.run(  # noqa: S603 - nothing of it comes from outside
        [program, "--list-langs"], capture_output=True, text=True, check=False, timeout=30
    )
    return frozenset(listed.stdout.split("\n")[1:]) - {"", "osd"}


def unavailable() -> FileRefused:
    """The refusal of a scan on a machine without tesseract."""
    return FileRefused(
        "OCR_UNAVAILABLE",
        "The file is a scan or an image, and this server cannot recognise text:"
        f" {INSTALL}, then reprocess the document.",
    )


def _usable(groups: tuple[str, ...], there: frozenset[str]) -> list[str]:
    """The groups without what is not installed; English, or anything, when none is left."""
    found = ["+".join(name for name in group.split("+") if name in there) for group in groups]
    kept = [group for group in found if group]
    return kept or sorted(there & {"eng"} or there)[:1]


def _run(image: bytes, languages: str, mode: int, seconds: float) -> _Reading:
    command = ["tesseract", "-", "-", "-l", languages, "--psm", str(mode), "--dpi", str(DPI), "tsv"]
    process = subprocess.run(  # noqa: S603 - the languages are those it listed itself
        command,
        input=image,
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        preexec_fn=lambda: _limit(seconds),
    )
    if process.returncode:
        return _Reading("", -1.0)
    return _parse(process.stdout.decode("utf-8", "replace"))


def _limit(seconds: float) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    whole = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))


def _parse(table: str) -> _Reading:
    """Tesseract's TSV: level, page, block, paragraph, line, word, box, confidence, text."""
    lines: dict[tuple[str, ...], list[tuple[Box, str]]] = {}
    confidences: list[float] = []
    for row in table.split("\n")[1:]:
        fields = row.split("\t")
        if len(fields) < 12 or fields[0] != "5" or not fields[11].strip():
            continue
        confidences.append(float(fields[10]))
        if confidences[-1] < _WORTHLESS:
            continue
        left, top, width, height = map(int, fields[6:10])
        box = Box(left, top, left + width, top + height)
        lines.setdefault(tuple(fields[1:5]), []).append((box, tidy(fields[11])))
    if not lines:
        return _Reading("", 0.0)
    found = [
        Line(
            block=int(key[1]),
            paragraph=int(key[2]),
            box=Box.around([box for box, _ in words]),
            text=" ".join(word for _, word in words),
        )
        for key, words in lines.items()
    ]
    return _Reading(arranged(found), fmean(confidences))
