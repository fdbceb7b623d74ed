"""The reader for each kind of file."""

from __future__ import annotations

from dataclasses import replace

from services.ingestion.extraction import archive, decoding, media
from services.ingestion.extraction.model import (
    CSV,
    DOC,
    DOCX,
    EML,
    EPUB,
    HTML,
    IMAGES,
    MARKDOWN,
    ODS,
    ODT,
    PDF,
    PPT,
    PPTX,
    RTF,
    TSV,
    XLS,
    XLSB,
    XLSX,
    Extracted,
    FileRefused,
    Source,
)
from services.ingestion.extraction.tools import Tools

_ARCHIVES = frozenset({DOCX, PPTX, XLSX, XLSB, ODT, ODS, EPUB})
_WORKBOOKS = frozenset({XLSX, XLSB, XLS, ODS})
_OFFICE = frozenset({DOCX, DOC, PPT, ODT, EPUB, RTF})


def read(source: Source, tools: Tools) -> Extracted:
    """A file as text.

    Raises:
        FileRefused: With any of its reasons.
        MemoryError: when the process may not have more.
    """
    media_type = media.of_source(source)
    if media_type in _ARCHIVES:
        archive.check(source)
    found = _read(source, media_type, tools)
    if not found.text.strip():
        raise FileRefused("NO_TEXT", "The file holds no text; nothing in it could be found.")
    return replace(found, media_type=media_type)


def _read(source: Source, media_type: str, tools: Tools) -> Extracted:
    # Imported where needed: a process reads one file, and a library costs up to 200 ms.
    if media_type == PDF:
        from services.ingestion.extraction import pdf

        return pdf.extract(source, tools)
    if media_type in IMAGES:
        from services.ingestion.extraction import image

        return image.extract(source, tools)
    if media_type == PPTX:
        from services.ingestion.extraction import slides

        return slides.extract(source, tools)
    if media_type in _OFFICE:
        from services.ingestion.extraction import office

        return office.extract(source, media_type)
    if media_type in _WORKBOOKS:
        from services.ingestion.extraction import sheets

        return sheets.extract(source, tools)
    if media_type == EML:
        from services.ingestion.extraction import mail

        return mail.extract(source, tools)
    return _read_text(source.read(), media_type)


def _read_text(data: bytes, media_type: str) -> Extracted:
    if media_type in (CSV, TSV):
        from services.ingestion.extraction import sheets

        return sheets.extract_csv(data, media_type)
    if media_type == HTML:
        from services.ingestion.extraction import html

        return html.extract(data)
    text = decoding.decode(data)
    if media_type == MARKDOWN:
        from services.ingestion.extraction import markdown

        return markdown.extract(text)
    return Extracted(text)
