"""Spans as OTLP JSON lines in a file: traces without any other program.

Each line is an `ExportTraceServiceRequest` in OTLP's JSON form, so a collector's
`otlpjsonfile` receiver reads the file as it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_ID_FIELDS = {"traceId", "spanId", "parentSpanId"}


def _hex_ids(value: Any) -> Any:
    """OTLP's JSON writes ids as hex where protobuf's JSON would write base64."""
    if isinstance(value, dict):
        return {
            key: base64.b64decode(item).hex() if key in _ID_FIELDS else _hex_ids(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hex_ids(item) for item in value]
    return value


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
        line = json.dumps(_hex_ids(MessageToDict(encode_spans(spans))), separators=(",", ":"))
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
