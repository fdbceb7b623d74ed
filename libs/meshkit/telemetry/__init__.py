"""Traces and metrics over OpenTelemetry; what a room uses of it.

`span` and `metrics` are all a room needs. RPC spans and metrics come from the
server and channel factories. Every name is declared in `schema.yaml`.
"""

from meshkit.telemetry import metrics as metrics
from meshkit.telemetry.metrics import meter as meter
from meshkit.telemetry.setup import Telemetry as Telemetry
from meshkit.telemetry.setup import collects_metrics as collects_metrics
from meshkit.telemetry.setup import configure as configure
from meshkit.telemetry.tracing import current_trace_id as current_trace_id
from meshkit.telemetry.tracing import span as span
