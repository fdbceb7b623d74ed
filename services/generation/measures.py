"""What operators see of answers: how they ended, how far to trust them, how long they took."""

from __future__ import annotations

from meshkit.telemetry import metrics, tracing
from services.generation.answers import Delta, Done, Event, Failed
from services.generation.stopwatch import FIRST_TOKEN, TOTAL

PIPELINE = "answer"

_answers = metrics.counter("citemesh.answers")
_first_token = metrics.histogram("citemesh.answer.first_token")
_duration = metrics.histogram("citemesh.answer.duration")


def passed(event: Event) -> None:
    """Notes an event of an answer on its way out."""
    if isinstance(event, Delta):
        return
    if isinstance(event, Done):
        _done(event)
    elif isinstance(event, Failed):
        _answers.add(1, {"outcome": "failed", "confidence": "none", "cache": "none"})
        # The call itself ends well: its last event says that the answer did not.
        tracing.failed(event.reason)


def _done(done: Done) -> None:
    outcome = "degraded" if done.degraded else "complete"
    cache = {"cache": done.cache.value}
    _answers.add(1, {"outcome": outcome, "confidence": done.confidence.value, **cache})
    for stage in done.degraded:
        metrics.went_without(PIPELINE, stage)
    for stage, milliseconds in done.timings_ms.items():
        if stage == FIRST_TOKEN:
            _first_token.record(milliseconds / 1000, cache)
        elif stage == TOTAL:
            _duration.record(milliseconds / 1000, cache)
        elif "." not in stage:
            # What retrieval did inside is in its own figures.
            metrics.stage_took(PIPELINE, stage, milliseconds / 1000)
