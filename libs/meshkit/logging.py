"""Structured logs: one JSON object a line, with trace, project and request.

Log what happened and to which id; never text of documents or questions, never a
secret. Lines of libraries pass through the same chain.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

from meshkit.context import peek

Event = MutableMapping[str, Any]


def _add_request(_: Any, __: str, event: Event) -> Event:
    """Adds who and which trace, when a request is being served."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
        event["span_id"] = format(span.span_id, "016x")
    context = peek()
    if context is not None:
        event.setdefault("project_id", context.project_id)
        event.setdefault("request_id", context.request_id)
    return event


def _outline(_: Any, __: str, event: Event) -> Event:
    """Puts the exception as types and places in the line, without its message.

    Messages of drivers and parsers quote what they choked on: a row, a key, a
    sentence of a document. At DEBUG they are written all the same.
    """
    found = event.pop("exc_info", None)
    if not found:
        return event
    error = found if isinstance(found, BaseException) else sys.exc_info()[1]
    chain = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        chain.append({"type": type(error).__qualname__, "at": places})
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            chain[-1]["message"] = str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    event["raised"] = chain
    return event


NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "asyncio", "alembic")
TALKATIVE = ("anthropic", "cohere", "google_genai")
"""Libraries of providers, which write whole prompts at DEBUG."""


def quieten() -> None:
    """Lets libraries that log every request, or its text, write only what goes wrong."""
    for name in (*NOISY, *TALKATIVE):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def configure(service: str, level: str, style: str) -> None:
    """Sends every log line of the process to standard error.

    Args:
        service: Added to each line.
        level: Least severe level that is written.
        style: `json` or `console`.
    """

    def add_service(_: Any, __: str, event: Event) -> Event:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_request,
        _outline,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    quieten()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
