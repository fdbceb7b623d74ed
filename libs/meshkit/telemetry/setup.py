"""Starts and stops telemetry of a process, by the standard OTEL variables.

Spans go to `OTEL_EXPORTER_OTLP_ENDPOINT` when it is set and to the trace file
when one is set; without either nothing is recorded, and trace ids still pass
through. Sampling follows `OTEL_TRACES_SAMPLER` and its argument.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from meshkit.ids import new_id
from meshkit.telemetry import tracing

ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The running providers of a process."""

    tracers: TracerProvider
    meters: MeterProvider | None

    def shutdown(self) -> None:
        """Sends what is left and stops."""
        self.tracers.shutdown()
        if self.meters is not None:
            self.meters.shutdown()


def configure(
    service: str, *, trace_file: Path | None, metrics_listen: str, prometheus: bool = False
) -> Telemetry:
    """Installs the process's tracer and meter providers.

    Args:
        service: Name of the component, as `service.name`.
        trace_file: File for spans, or None.
        metrics_listen: `host:port` of a Prometheus end point; empty for none.
        prometheus: Collect for Prometheus without an end point of our own, because
            the caller serves the registry itself.
    """
    resource = Resource.create(
        {SERVICE_NAME: f"citemesh-{service}", SERVICE_INSTANCE_ID: new_id("proc")}
    )
    otlp = any(os.environ.get(name) for name in ENDPOINTS)
    if otlp or trace_file:
        tracers = TracerProvider(resource=resource)
    else:
        tracers = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_OFF))
    readers: list[MetricReader] = []
    # Exporters are imported where they are used: they take a third of the time a
    # process needs to start, and a process that died must be back within seconds.
    if otlp:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if trace_file:
        from meshkit.telemetry.file_exporter import FileSpanExporter

        tracers.add_span_processor(BatchSpanProcessor(FileSpanExporter(trace_file)))
    trace.set_tracer_provider(tracers)
    tracing.children_follow(isinstance(tracers.sampler, ParentBased))
    if metrics_listen or prometheus:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader

        readers.append(PrometheusMetricReader())
    if metrics_listen:
        from prometheus_client import start_http_server

        host, _, port = metrics_listen.rpartition(":")
        start_http_server(int(port), addr=host or "127.0.0.1")
    meters = MeterProvider(metric_readers=readers, resource=resource) if readers else None
    if meters is not None:
        metrics.set_meter_provider(meters)
    return Telemetry(tracers, meters)
