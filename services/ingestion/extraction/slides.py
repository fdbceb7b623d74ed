"""Text of a presentation, slide by slide with its notes, through python-pptx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pptx import Presentation
from pptx.exc import PythonPptxError

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import (
    Extracted,
    FileRefused,
    PageSpan,
    Section,
    Source,
    TextBuilder,
)
from services.ingestion.extraction.tools import Tools

_DEEPEST_GROUP = 20


def extract(source: Source, tools: Tools) -> Extracted:
    """A page and a section per slide; its title is a heading, its notes follow its text.

    Raises:
        FileRefused: FILE_CORRUPT.
    """
    out = TextBuilder()
    pages: list[PageSpan] = []
    try:
        with source.open() as file:
            presentation = Presentation(file)
            slides = list(presentation.slides)
            for number, slide in enumerate(slides, start=1):
                _write_slide(slide, number, out, pages)
                tools.progress(number, len(slides))
            title = tidy(presentation.core_properties.title or "").strip()
    # Its parser raises whatever the XML it did not expect leads to.
    except (PythonPptxError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise _damaged() from error
    except SyntaxError:  # what lxml calls XML that is not well formed
        raise _damaged() from None
    found = out.extracted("" if title.lower() == "powerpoint presentation" else title[:1024])
    return Extracted(found.text, tuple(pages), found.headings, found.sections, found.title)


def _damaged() -> FileRefused:
    return FileRefused(
        "FILE_CORRUPT", "The presentation is damaged; open it, save it anew and upload that."
    )


def _write_slide(slide: Any, number: int, out: TextBuilder, pages: list[PageSpan]) -> None:
    start = out.length
    title = slide.shapes.title
    heading = " ".join(tidy(title.text_frame.text).split()) if title is not None else ""
    if heading:
        out.add_heading(heading, 1)
    for shape in _flat(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        for block in _blocks(shape):
            out.add_block(block)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = tidy(slide.notes_slide.notes_text_frame.text).strip()
        if notes:
            out.add_block(f"Notes: {notes}")
    pages.append(PageSpan(number, start, out.length))
    if out.length > start:
        out.sections.append(Section(start, out.length, f"Slide {number}"))


def _flat(shapes: Iterable[Any], depth: int = 0) -> Iterator[Any]:
    """Shapes in the order of the slide, those inside of groups too."""
    for shape in shapes:
        if hasattr(shape, "shapes") and depth < _DEEPEST_GROUP:
            yield from _flat(shape.shapes, depth + 1)
        else:
            yield shape


def _blocks(shape: Any) -> Iterator[str]:
    if getattr(shape, "has_text_frame", False):
        text = tidy(shape.text_frame.text).replace("\v", "\n").strip()
        if text:
            yield text
    elif getattr(shape, "has_table", False):
        rows = (_row(cell.text for cell in row.cells) for row in shape.table.rows)
        table = "\n".join(filter(None, rows))
        if table:
            yield table
    elif getattr(shape, "has_chart", False):
        yield from _chart(shape.chart)


def _chart(chart: Any) -> Iterator[str]:
    """The figures behind a chart, a series per line."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield tidy(chart.chart_title.text_frame.text).strip()
    for plot in chart.plots:
        names = [str(name) for name in plot.categories]
        rows = [_row([*names])] if names else []
        for series in plot.series:
            values = ["" if value is None else f"{value:.15g}" for value in series.values]
            rows.append(_row([str(series.name), *values]))
        if table := "\n".join(filter(None, rows)):
            yield table


def _row(cells: Iterable[str]) -> str:
    texts = [" ".join(tidy(cell).split()) for cell in cells]
    return " | ".join(text for text in texts if text)
