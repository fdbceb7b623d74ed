"""Word, OpenDocument, RTF, EPUB and old Office files, through kreuzberg's Rust core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.model import Extracted, FileRefused, Source, TextBuilder

_LEVELS = 9
_ASIDES = ("header", "footer")
"""Layers that repeat on every page."""


def extract(source: Source, media_type: str) -> Extracted:
    """Paragraphs, headings, lists, and tables a row per line.

    Raises:
        FileRefused: FILE_CORRUPT or FILE_ENCRYPTED.
    """
    # Imported here: it costs 20 ms that other formats need not pay.
    from kreuzberg import ExtractionConfig, KreuzbergError, extract_bytes_sync

    config = ExtractionConfig(
        use_cache=False, enable_quality_processing=False, include_document_structure=True
    )
    try:
        result = extract_bytes_sync(source.read(), mime_type=media_type, config=config)
    except (KreuzbergError, OSError, RuntimeError, ValueError) as error:
        if "password" in str(error).lower() or "encrypted" in str(error).lower():
            raise FileRefused(
                "FILE_ENCRYPTED", "The file is protected by a password; upload it without."
            ) from None
        raise FileRefused(
            "FILE_CORRUPT", "The file is damaged; open it, save it anew and upload that."
        ) from None
    out = TextBuilder()
    nodes = result.document["nodes"] if result.document else []
    for node in _in_order(nodes):
        _write(node["content"], out)
    title = result.metadata.get("title") or ""
    return out.extracted(title=tidy(str(title)).strip()[:1024])


def _in_order(nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The body, then notes at its end; running heads and feet are left out."""
    kept = [node for node in nodes if node.get("content_layer") not in _ASIDES]
    return sorted(kept, key=lambda node: node.get("content_layer") is not None)


def _write(content: Mapping[str, Any], out: TextBuilder) -> None:
    kind = content["node_type"]
    if kind == "table":
        if table := _table(content["grid"]["cells"]):
            out.add_block(table)
        return
    if kind == "group":
        return  # its heading follows as a node of its own
    text = tidy(str(content.get("text") or "")).strip()
    if not text:
        return
    if kind == "heading":
        out.add_heading(" ".join(text.split()), min(_LEVELS, max(1, int(content["level"]))))
    elif kind == "list_item":
        out.add_item(text)
    else:
        out.add_block(text)


def _table(cells: Iterable[Mapping[str, Any]]) -> str:
    rows: dict[int, list[str]] = {}
    for cell in cells:
        text = " ".join(tidy(cell["content"]).split())
        if text:
            rows.setdefault(cell["row"], []).append(text)
    return "\n".join(" | ".join(texts) for _, texts in sorted(rows.items()))
