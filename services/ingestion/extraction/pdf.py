"""Text of a PDF page by page, through pdfium.

Lines come in reading order, a table's row as one line. An empty line is put
where the page shows a gap, so that paragraphs can be told apart. Headings come
from the outline when the file has one, else from what is set larger or bolder
than the running text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as pdfium_c  # type: ignore[import-untyped]

from services.ingestion.extraction import ocr
from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import (
    HEADING_CHARACTERS,
    Extracted,
    FileRefused,
    Heading,
    PageSpan,
    Source,
    TextBuilder,
)
from services.ingestion.extraction.pdf_layout import Line, in_reading_order, usual_distance
from services.ingestion.extraction.pdf_page import HYPHENATED, Page
from services.ingestion.extraction.tools import Tools

_GAP = 1.45
"""Distance between lines, in usual distances, above which a paragraph ends."""
_HEADING_LINE_CHARACTERS = 120
_MOST_HEADING_LINES = 3
"""Longer runs of large or bold lines are cover pages and table heads."""
_RUNNING_TITLE = 4
"""A title seen this often is a page's running head or a table's, not a heading."""
_OUTLINE_DEPTH = 9
_MACHINE_TITLE = re.compile(
    r"^[\d\W_]*$|^(untitled|microsoft word\b.*|document\d*)$|\.\w{2,4}$", re.IGNORECASE
)


def extract(source: Source, tools: Tools) -> Extracted:
    """Reads every page; one that is a picture is recognised.

    Raises:
        FileRefused: FILE_ENCRYPTED, FILE_CORRUPT, NO_TEXT or OCR_UNAVAILABLE.
    """
    document = _open(source)
    count = len(document)
    out = TextBuilder()
    pages: list[PageSpan] = []
    lines: list[Line] = []
    unread = _Unread()
    for number in range(1, count + 1):
        start = out.length
        lines += _write_page(document, number, out, tools, unread)
        pages.append(PageSpan(number, start, out.length))
        tools.progress(number, count)
    text = out.text()
    if not text.strip():
        raise unread.refusal()
    headings = _outline(document, text, pages) or _by_style(lines)
    return Extracted(
        text, tuple(pages), tuple(headings), title=_title(document), warnings=unread.warnings()
    )


class _Unread:
    """Pages without text, by why."""

    def __init__(self) -> None:
        self.damaged: list[int] = []
        self.empty: list[int] = []
        self.unrecognised: list[int] = []
        self.beyond: list[int] = []

    def refusal(self) -> FileRefused:
        """Why a document has no text at all."""
        if self.unrecognised:
            return ocr.unavailable()
        if self.damaged:
            return FileRefused(
                "FILE_CORRUPT", "None of the PDF's pages can be read; save it anew and upload that."
            )
        return FileRefused("NO_TEXT", "No text can be found or recognised on the PDF's pages.")

    def warnings(self) -> tuple[str, ...]:
        """A remark per kind."""
        found = (
            (self.damaged, "damaged pages left out: {}"),
            (self.empty, "no text on pages {}"),
            (self.unrecognised, f"pages not recognised: {{}}; {ocr.INSTALL} and reprocess"),
            (self.beyond, "too many pages to recognise; left out: {}"),
        )
        return tuple(remark.format(_ranges(pages)) for pages, remark in found if pages)


def _open(source: Source) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(source.content)
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


def _write_page(
    document: pdfium.PdfDocument, number: int, out: TextBuilder, tools: Tools, unread: _Unread
) -> list[Line]:
    """Writes the text of a page; returns the lines whose style is known."""
    try:
        with Page(document, number - 1) as page:
            found = page.lines()
            recognised = _recognise(page, number, tools, unread) if page.is_picture(found) else ""
    except pdfium.PdfiumError:
        unread.damaged.append(number)
        return []
    if len(recognised) > sum(len(line.text) for line in found):
        _separate(out)
        out.add(recognised)
        return []
    return _write_lines(in_reading_order(found), out)


def _recognise(page: Page, number: int, tools: Tools, unread: _Unread) -> str:
    if tools.ocr.exhausted:
        unread.beyond.append(number)
        return ""
    if not tools.ocr.available:
        unread.unrecognised.append(number)
        return ""
    text = tools.ocr.read(page.raster())
    if not text:
        unread.empty.append(number)
    return text


def _separate(out: TextBuilder) -> None:
    if out.length:
        out.add("\n\n")


def _write_lines(found: Sequence[Line], out: TextBuilder) -> list[Line]:
    """Writes the lines, apart by an empty line where the page shows a gap."""
    usual = usual_distance(found)
    placed: list[Line] = []
    if found:
        _separate(out)
    for above, line in pairwise([None, *found]):
        assert line is not None
        if above is not None and above.text[-1] not in "\x02\ufffe":
            drop = above.last_baseline - line.baseline
            # A jump upwards is the next column.
            apart = usual and (drop > usual * _GAP or drop < -usual)
            out.add("\n\n" if apart else "\n")
        text = HYPHENATED.sub("", line.text)
        placed.append(replace(line, start=out.add(text), text=text))
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


def _by_style(lines: Sequence[Line]) -> list[Heading]:
    """Short runs of lines set larger or bolder than most of the text."""
    weights: Counter[tuple[float, int]] = Counter()
    for line in lines:
        weights[line.size, line.weight] += len(line.text)
    if not weights:
        return []
    (body_size, body_weight), _ = weights.most_common(1)[0]

    def style(line: Line) -> tuple[float, int, bool] | None:
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
