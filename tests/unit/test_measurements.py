"""Measurements that wait: none is lost, and each belongs to the trace it was taken in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from meshkit.telemetry.measurements import AT_ONCE, Counter, Histogram, hand_over


class Meters:
    """An SDK of its own, whose observed instrument takes what waits as the mesh's does."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])
        self.meter = self.provider.get_meter("tests")

    def collected(self) -> dict[str, Any]:
        found = self.reader.get_metrics_data()
        if found is None:
            return {}
        metrics = found.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: metric.data.data_points for metric in metrics}


@pytest.fixture
def meters() -> Iterator[Meters]:
    hand_over()
    made = Meters()
    yield made
    made.provider.shutdown()


def waiting(_options: CallbackOptions) -> list[Observation]:
    return [Observation(hand_over())]


def test_what_waits_is_there_when_somebody_collects(meters: Meters) -> None:
    meters.meter.create_observable_gauge("waiting", [waiting])
    counter = Counter(meters.meter.create_counter("calls"))
    counter.add(2, {"kind": "a"})
    counter.add(3, {"kind": "a"})
    found = meters.collected()
    assert [point.value for point in found["calls"]] == [5]
    assert [point.value for point in found["waiting"]] == [2]


def test_enough_of_them_are_handed_over_without_anybody_collecting(meters: Meters) -> None:
    counter = Counter(meters.meter.create_counter("calls"))
    for _ in range(AT_ONCE - 1):
        counter.add(1)
    assert meters.collected() == {}
    counter.add(1)
    assert [point.value for point in meters.collected()["calls"]] == [AT_ONCE]


def test_none_is_lost_or_counted_twice_by_threads(meters: Meters) -> None:
    counter = Counter(meters.meter.create_counter("calls"))
    histogram = Histogram(meters.meter.create_histogram("times"))

    def measure(_: int) -> None:
        for _ in range(1_000):
            counter.add(1)
            histogram.record(0.5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(measure, range(4)))
    hand_over()
    found = meters.collected()
    assert found["calls"][0].value == 4_000
    assert found["times"][0].count == 4_000


def test_an_exemplar_names_the_trace_it_was_measured_in(meters: Meters) -> None:
    histogram = Histogram(meters.meter.create_histogram("times"))
    sampled = SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    another = SpanContext(0xC, 0xD, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    histogram.record(0.1)
    with trace.use_span(NonRecordingSpan(sampled)):
        histogram.record(0.5)
    with trace.use_span(NonRecordingSpan(another)):
        hand_over()
    (point,) = meters.collected()["times"]
    assert [exemplar.trace_id for exemplar in point.exemplars] == [0xA]
