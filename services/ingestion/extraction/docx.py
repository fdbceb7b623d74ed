"""Text of a DOCX file through kreuzberg, whose Rust core refuses archive bombs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import DOCX, Extracted, FileRefused, TextBuilder


def extract(path: Path) -> Extracted:
    """Paragraphs, headings, lists, and tables a row per line.

    Raises:
        FileRefused: FILE_CORRUPT.
    """
    # Imported here: it costs 20 ms that other formats need not pay.
    from kreuzberg import ExtractionConfig, KreuzbergError, extract_file_sync

    config = ExtractionConfig(
        use_cache=False, enable_quality_processing=False, include_document_structure=True
    )
    try:
        result = extract_file_sync(path, mime_type=DOCX, config=config)
    except (KreuzbergError, OSError, RuntimeError):
        raise FileRefused(
            "FILE_CORRUPT", "The DOCX file is damaged; open it, save it anew and upload that."
        ) from None
    out = TextBuilder()
    nodes = result.document["nodes"] if result.document else []
    for node in nodes:
        _write(node["content"], out)
    title = result.metadata.get("title") or ""
    return Extracted(text=out.text(), headings=tuple(out.headings), title=tidy(str(title))[:1024])


def _write(content: Mapping[str, Any], out: TextBuilder) -> None:
    kind = content["node_type"]
    if kind == "table":
        rows: dict[int, list[str]] = {}
        for cell in content["grid"]["cells"]:
            text = " ".join(tidy(cell["content"]).split())
            if text:
                rows.setdefault(cell["row"], []).append(text)
        table = "\n".join(" | ".join(cells) for _, cells in sorted(rows.items()))
        if table:
            out.add_block(table)
        return
    text = tidy(str(content.get("text") or "")).strip()
    if not text:
        return
    if kind == "heading":
        out.add_heading(" ".join(text.split()), min(9, max(1, int(content["level"]))))
    elif kind == "list_item":
        out.add("\n- " if out.length else "- ")
        out.add(text)
    else:
        out.add_block(text)
