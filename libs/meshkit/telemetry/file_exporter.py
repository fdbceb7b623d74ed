"""Spans as OTLP JSON lines in a file: traces without any other program.

Each line is an `ExportTraceServiceRequest` in OTLP's JSON form, so a collector's
`otlpjsonfile` receiver reads the file as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from meshkit.telemetry import otlp_json


class FileSpanExporter(SpanExporter):
    """Appends batches of spans to a file and begins anew when it grows too large.

    Args:
        path: File to append to; its former content moves to `<path>.1` when the
            file exceeds `max_bytes`.
        max_bytes: Size at which the file is rotated.
    """

    def __init__(self, path: Path, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Appends one line with all spans of the batch."""
        line = json.dumps(otlp_json.request(spans), separators=(",", ":"))
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        with self._path.open("a") as file:
            file.write(line + "\n")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is kept open between batches."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002
        """Every batch is on disk when `export` returns."""
        return True
