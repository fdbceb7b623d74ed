"""Text of a PDF page by page, through pdfium.

Lines come in reading order, a table's row as one line. An empty line is put
where the page shows a gap, so that paragraphs can be told apart. Headings come
from the outline when the file has one, else from what is set larger or bolder
than the running text.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as pdfium_c  # type: ignore[import-untyped]

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import (
    HEADING_CHARACTERS,
    Extracted,
    FileRefused,
    Heading,
    PageSpan,
    TextBuilder,
)

_GAP = 1.45
"""Distance between lines, in usual distances, above which a paragraph ends."""
_HEADING_LINE_CHARACTERS = 120
_MOST_HEADING_LINES = 3
"""Longer runs of large or bold lines are cover pages and table heads."""
_RUNNING_TITLE = 4
"""A title seen this often is a page's running head or a table's, not a heading."""
_OUTLINE_DEPTH = 9
_HYPHENATED = re.compile("[\x02\ufffe]\n?")
_MACHINE_TITLE = re.compile(
    r"^[\d\W_]*$|^(untitled|microsoft word\b.*|document\d*)$|\.\w{2,4}$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text; baselines in points from the page's bottom.

    The two differ when pdfium has joined lines at a hyphen.
    """

    text: str
    baseline: float
    last_baseline: float
    size: float
    weight: int
    start: int = 0


def extract(path: Path, progress: Callable[[int, int], None]) -> Extracted:
    """Reads every page.

    Args:
        path: The file.
        progress: Told pages done and to do.

    Raises:
        FileRefused: FILE_ENCRYPTED, FILE_CORRUPT or NO_TEXT.
    """
    document = _open(path)
    count = len(document)
    out = TextBuilder()
    pages: list[PageSpan] = []
    lines: list[_Line] = []
    unread: list[int] = []
    for number in range(1, count + 1):
        start = out.length
        try:
            found = _read_page(document, number - 1)
        except pdfium.PdfiumError:
            found = []
        if not found:
            unread.append(number)
        lines += _write_page(found, out)
        pages.append(PageSpan(number, start, out.length))
        progress(number, count)
    text = out.text()
    if not text.strip():
        raise FileRefused(
            "NO_TEXT",
            "The PDF's pages are images without text; run text recognition (OCR) on it first.",
        )
    headings = _outline(document, text, pages) or _by_style(lines)
    warnings = (f"no text on pages {_ranges(unread)}",) if unread else ()
    return Extracted(text, tuple(pages), tuple(headings), _title(document), warnings)


def _open(path: Path) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(path)
        if len(document):
            return document
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise FileRefused(
                "FILE_ENCRYPTED", "The PDF is protected by a password; upload it without."
            ) from None
        if error.err_code == pdfium_c.FPDF_ERR_SECURITY:
            raise FileRefused(
                "FILE_ENCRYPTED", "The PDF is encrypted in a way that cannot be read."
            ) from None
    raise FileRefused("FILE_CORRUPT", "The PDF is damaged or was cut off; upload it again in full.")


def _read_page(document: pdfium.PdfDocument, index: int) -> list[_Line]:
    page = document[index]
    try:
        textpage = page.get_textpage()
        try:
            return list(_lines(textpage))
        finally:
            textpage.close()
    finally:
        page.close()


def _lines(textpage: pdfium.PdfTextPage) -> Iterator[_Line]:
    position = 0
    x, y = ctypes.c_double(), ctypes.c_double()
    content = textpage.get_text_range()
    for raw in content.split("\n"):
        text = tidy(raw.rstrip("\r"))
        lead = len(raw) - len(raw.lstrip())
        if text.strip():
            char = _char(textpage, position + lead)
            # The baseline: boxes of single letters differ in height.
            pdfium_c.FPDFText_GetCharOrigin(textpage.raw, char, x, y)
            size = pdfium_c.FPDFText_GetFontSize(textpage.raw, char)
            weight = pdfium_c.FPDFText_GetFontWeight(textpage.raw, char)
            first = last = y.value
            if _HYPHENATED.search(raw):
                pdfium_c.FPDFText_GetCharOrigin(
                    textpage.raw, _char(textpage, position + _units(raw.rstrip()) - 1), x, y
                )
                last = y.value
            yield _Line(text.strip(), first, last, round(size, 1), weight)
        position += _units(raw) + 1


def _char(textpage: pdfium.PdfTextPage, position: int) -> int:
    """Index of the glyph behind a position in the page's text."""
    return int(pdfium_c.FPDFText_GetCharIndexFromTextIndex(textpage.raw, position))


def _units(text: str) -> int:
    """Length as pdfium counts it, in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _write_page(found: Sequence[_Line], out: TextBuilder) -> list[_Line]:
    """Writes the lines, apart by an empty line where the page shows a gap."""
    drops = [above.last_baseline - below.baseline for above, below in pairwise(found)]
    usual = median([drop for drop in drops if drop > 1] or [0.0])
    if out.length and found:
        out.add("\n\n")
    placed: list[_Line] = []
    for index, line in enumerate(found):
        text = line.text
        if index:
            hyphenated = found[index - 1].text[-1] in "\x02\ufffe"
            drop = drops[index - 1]
            # A jump upwards is the next column.
            apart = usual and (drop > usual * _GAP or drop < -usual)
            if not hyphenated:
                out.add("\n\n" if apart else "\n")
        start = out.add(_HYPHENATED.sub("", text))
        placed.append(replace(line, start=start, text=_HYPHENATED.sub("", text)))
    return placed


def _outline(document: pdfium.PdfDocument, text: str, pages: Sequence[PageSpan]) -> list[Heading]:
    """Entries of the outline, each where its title stands on its page."""
    headings: list[Heading] = []
    try:
        entries = list(document.get_toc(max_depth=_OUTLINE_DEPTH))
    except pdfium.PdfiumError:
        return []
    position = 0
    for entry in entries:
        destination = entry.get_dest()
        index = destination.get_index() if destination else None
        title = " ".join(tidy(entry.get_title()).split())
        if index is None or not title or index >= len(pages):
            continue
        page = pages[index]
        words = r"\s+".join(re.escape(word) for word in title.split())
        pattern = re.compile(words, re.IGNORECASE)
        # Titles recur; the outline is in reading order, so look behind the last one first.
        found = pattern.search(text, max(page.start, position), page.end) or pattern.search(
            text, page.start, page.end
        )
        start, end = found.span() if found else (page.start, page.start)
        position = end if found else position
        headings.append(Heading(start, end, entry.level + 1, title[:HEADING_CHARACTERS]))
    headings.sort(key=lambda heading: (heading.start, heading.level))
    return headings


def _by_style(lines: Sequence[_Line]) -> list[Heading]:
    """Short runs of lines set larger or bolder than most of the text."""
    weights: Counter[tuple[float, int]] = Counter()
    for line in lines:
        weights[line.size, line.weight] += len(line.text)
    (body_size, body_weight), _ = weights.most_common(1)[0]

    def style(line: _Line) -> tuple[float, int, bool] | None:
        larger = line.size > body_size + 0.5
        bolder = line.weight > body_weight + 50 and line.size > body_size - 0.5
        if not (larger or bolder) or not _is_title(line.text):
            return None
        return (line.size, line.weight, line.text.isupper())

    runs = [(key, list(run)) for key, run in groupby(lines, key=style) if key is not None]
    runs = [(key, run) for key, run in runs if len(run) <= _MOST_HEADING_LINES]
    ranks = sorted({key for key, _ in runs}, reverse=True)
    level = {key: min(9, rank + 1) for rank, key in enumerate(ranks)}
    headings = [
        Heading(
            run[0].start,
            run[-1].start + len(run[-1].text),
            level[key],
            " ".join(line.text for line in run)[:HEADING_CHARACTERS],
        )
        for key, run in runs
    ]
    seen = Counter(heading.title for heading in headings)
    return [heading for heading in headings if seen[heading.title] < _RUNNING_TITLE]


def _is_title(text: str) -> bool:
    """Whether a line could be a heading: some words, not a sentence, not a row of figures."""
    letters = sum(char.isalpha() for char in text)
    digits = sum(char.isdigit() for char in text)
    return (
        3 <= len(text) <= _HEADING_LINE_CHARACTERS
        and letters > 2 * digits
        and text[0] not in "(☐☒•-"
        and text[-1] not in ".,;"
    )


def _title(document: pdfium.PdfDocument) -> str:
    """The metadata's title, unless a machine left it there."""
    title = tidy(document.get_metadata_dict().get("Title") or "").strip()
    return "" if _MACHINE_TITLE.search(title) else title[:1024]


def _ranges(numbers: Sequence[int]) -> str:
    """`3-5, 8` for 3, 4, 5, 8; cut after ten."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    shown = [f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups]
    return ", ".join(shown[:10]) + (" and more" if len(shown) > 10 else "")
