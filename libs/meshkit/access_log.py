"""One line for each request and call that has ended, streams too.

It says what was asked for, how it ended and how long it took, with the names of trace,
project and request; never what was said. Written past the logging chain, where a line
costs four times as much: with the policy `all` a search makes five of them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry import trace

from meshkit.context import peek
from meshkit.logging import logger

log = logger(__name__)

ALL, ERRORS, OFF = "all", "errors", "off"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a process keeps its access log."""

    service: str = ""
    wanted: str = ERRORS
    """`all`, `errors` (what did not end well) or `off`."""
    json: bool = False
    """Lines are JSON; otherwise they pass through the ordinary logging chain."""


_policy = Policy()


def configure(policy: Policy) -> None:
    """Sets the policy of this process."""
    global _policy  # noqa: PLW0603 - a process has one log
    _policy = policy


def write(event: str, *, ok: bool, **facts: str | int | float) -> None:
    """Writes the line of something that has ended.

    Args:
        event: `call` or `request`.
        ok: Whether it ended well; with the policy `errors` nothing is written then.
        facts: What it was: names and numbers.
    """
    policy = _policy
    if policy.wanted == OFF or (ok and policy.wanted != ALL):
        return
    if not policy.json:
        log.info(event, **facts)
        return
    line: dict[str, str | int | float] = {"event": event, **facts, "level": "info"}
    line["logger"] = __name__
    line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line["service"] = policy.service
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line["trace_id"] = format(span.trace_id, "032x")
        line["span_id"] = format(span.span_id, "016x")
    request = peek()
    if request is not None:
        line.setdefault("project_id", request.project_id)
        line.setdefault("request_id", request.request_id)
    sys.stderr.write(json.dumps(line, ensure_ascii=False, separators=(", ", ": ")) + "\n")
