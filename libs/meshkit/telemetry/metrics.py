"""The instruments every process has; rooms add their own through `meter`."""

from __future__ import annotations

from opentelemetry import metrics

meter = metrics.get_meter("citemesh")

# Boundaries in seconds: fine where the mesh answers, coarse where models do.
_BOUNDARIES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]

server_duration = meter.create_histogram(
    "rpc.server.duration",
    unit="s",
    description="Time to serve a call, streams to their end.",
    explicit_bucket_boundaries_advisory=_BOUNDARIES,
)
client_duration = meter.create_histogram(
    "rpc.client.duration",
    unit="s",
    description="Time a call to another service took, streams to their end.",
    explicit_bucket_boundaries_advisory=_BOUNDARIES,
)
server_active = meter.create_up_down_counter(
    "rpc.server.active", unit="{call}", description="Calls being served."
)
admission_limit = meter.create_gauge(
    "citemesh.admission.limit",
    unit="{unit}",
    description="Units that requests may take at once; it follows the time that they take.",
)
admission_waited = meter.create_histogram(
    "citemesh.admission.waited",
    unit="s",
    description="Wait for a place, of requests that had to wait.",
    explicit_bucket_boundaries_advisory=_BOUNDARIES,
)
admission_refused = meter.create_counter(
    "citemesh.admission.refused", unit="{request}", description="Requests turned away, by kind."
)
