"""Starts and stops telemetry of a process, by the standard OTEL variables.

Spans and metrics go to `OTEL_EXPORTER_OTLP_ENDPOINT` when it is set, spans to the trace
file when one is set, metrics to whoever scrapes the process's end point; without any of
these nothing is recorded, and trace ids still pass through. Sampling follows
`OTEL_TRACES_SAMPLER` and its argument; `OTEL_SDK_DISABLED` turns everything off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_NAMESPACE,
    SERVICE_VERSION,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from meshkit.ids import new_id
from meshkit.telemetry import tracing

OVER_HTTP = "http/protobuf"
"""The value of `OTEL_EXPORTER_OTLP_PROTOCOL` that is not gRPC."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The running providers of a process."""

    tracers: TracerProvider | None = None
    meters: MeterProvider | None = None
    scrape_port: int = 0
    """Port of the Prometheus end point; 0 when there is none."""
    _scraping: Any = None

    def shutdown(self) -> None:
        """Sends what is left and stops."""
        if self._scraping is not None:
            self._scraping.shutdown()
            self._scraping.server_close()
        if self.tracers is not None:
            self.tracers.shutdown()
        if self.meters is not None:
            self.meters.shutdown()


def collects_metrics() -> bool:
    """Whether this process's metrics go anywhere."""
    return isinstance(metrics.get_meter_provider(), MeterProvider)


def _said(signal: str, what: str) -> str:
    """A standard variable, the signal's own before the one for all signals."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{what}", "")
    return own or os.environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")


def _sends(signal: str) -> bool:
    """Whether `TRACES` or `METRICS` go to an OTLP end point."""
    return bool(_said(signal, "ENDPOINT")) and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


# Exporters are imported where they are used: they take a third of the time a process needs
# to start, and a process that died must be back within seconds.


def _span_exporter() -> SpanExporter:
    if _said("TRACES", "PROTOCOL") == OVER_HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

        return Http()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _metric_exporter() -> MetricExporter:
    if _said("METRICS", "PROTOCOL") == OVER_HTTP:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
            OTLPMetricExporter as Http,
        )

        return Http()
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def configure(
    service: str,
    *,
    trace_file: Path | None,
    metrics_listen: str,
    prometheus: bool = False,
    trace_content: bool = False,
) -> Telemetry:
    """Installs the process's tracer and meter providers.

    Args:
        service: Name of the component, as `service.name`.
        trace_file: File for spans, or None.
        metrics_listen: `host:port` of a Prometheus end point, port 0 for a free one; empty
            for none.
        prometheus: Collect for Prometheus without an end point of our own, because
            the caller serves the registry itself.
        trace_content: Whether spans of calls to models carry their texts.
    """
    tracing.want_content(trace_content)
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry()
    resource = _resource(service)
    meters, scraping = _meters(resource, metrics_listen, prometheus=prometheus)
    port = scraping.server_port if scraping is not None else 0
    return Telemetry(_tracers(resource, trace_file), meters, port, scraping)


def _resource(service: str) -> Resource:
    try:
        installed = version("citemesh")
    except PackageNotFoundError:
        installed = "unknown"
    return Resource.create(
        {
            SERVICE_NAME: f"citemesh-{service}",
            SERVICE_NAMESPACE: "citemesh",
            SERVICE_VERSION: installed,
            SERVICE_INSTANCE_ID: new_id("proc"),
        }
    )


def _tracers(resource: Resource, trace_file: Path | None) -> TracerProvider:
    exporters: list[SpanExporter] = []
    if _sends("TRACES"):
        exporters.append(_span_exporter())
    if trace_file:
        from meshkit.telemetry.file_exporter import FileSpanExporter

        exporters.append(FileSpanExporter(trace_file))
    sampler = None if exporters else ParentBased(ALWAYS_OFF)
    tracers = TracerProvider(resource=resource, sampler=sampler)
    for exporter in exporters:
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    tracing.children_follow(isinstance(tracers.sampler, ParentBased))
    return tracers


def _meters(
    resource: Resource, listen: str, *, prometheus: bool
) -> tuple[MeterProvider | None, Any]:
    readers: list[MetricReader] = []
    scraping = None
    if _sends("METRICS"):
        readers.append(PeriodicExportingMetricReader(_metric_exporter()))
    if listen or prometheus:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader

        # All of our instruments are of one scope, whose name each series would repeat.
        readers.append(PrometheusMetricReader(scope_info_enabled=False))
    if listen:
        from prometheus_client import start_http_server

        host, _, port = listen.rpartition(":")
        scraping, _ = start_http_server(int(port), addr=host or "127.0.0.1")
    if not readers:
        return None, scraping
    meters = MeterProvider(metric_readers=readers, resource=resource)
    metrics.set_meter_provider(meters)
    return meters, scraping
