"""Instruments, made by the name they are declared under in `schema.yaml`.

Unit, description and buckets stand there. A name that does not stand there stops the
import of the module that wants it. Attributes are few and have few values: a project, a
document or a request is never one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.metrics import _Gauge as Gauge

from meshkit.telemetry.measurements import Counter, Histogram, hand_over
from meshkit.telemetry.schema import schema

meter = metrics.get_meter("citemesh")


def counter(name: str) -> Counter:
    """Something that is counted."""
    said = schema().metric(name)
    return Counter(meter.create_counter(name, said.unit, said.brief))


def histogram(name: str) -> Histogram:
    """Something of which the distribution matters."""
    said = schema().metric(name)
    edges = list(said.boundaries)
    made = meter.create_histogram(
        name, said.unit, said.brief, explicit_bucket_boundaries_advisory=edges
    )
    return Histogram(made)


def gauge(name: str) -> Gauge:
    """A reading that is set when it is known."""
    said = schema().metric(name)
    return meter.create_gauge(name, said.unit, said.brief)


def observed(name: str, callback: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
    """A reading that is taken when somebody collects."""
    said = schema().metric(name)
    callbacks: Sequence[Callable[[CallbackOptions], Iterable[Observation]]] = [callback]
    if said.instrument == "up_down_counter":
        meter.create_observable_up_down_counter(name, callbacks, said.unit, said.brief)
    else:
        meter.create_observable_gauge(name, callbacks, said.unit, said.brief)


def _observe_waiting(_options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(hand_over())]


observed("citemesh.telemetry.waiting", _observe_waiting)
server_duration = histogram("rpc.server.duration")
client_duration = histogram("rpc.client.duration")
admission_limit = gauge("citemesh.admission.limit")
admission_waited = histogram("citemesh.admission.waited")
admission_refused = counter("citemesh.admission.refused")
_stage = histogram("citemesh.stage.duration")
_degraded = counter("citemesh.degraded")


def stage_took(pipeline: str, stage: str, seconds: float) -> None:
    """Notes the time of a stage of `search`, `answer` or `ingest`."""
    _stage.record(seconds, {"pipeline": pipeline, "stage": stage})


def went_without(pipeline: str, stage: str) -> None:
    """Notes that a result lacks what a stage would have added."""
    _degraded.add(1, {"pipeline": pipeline, "stage": stage})
