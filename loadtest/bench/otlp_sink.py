"""Stands for a collector: takes OTLP over gRPC, keeps nothing, says at its end how much came.

python -m loadtest.bench.otlp_sink PORT
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces


def handlers(seen: Counter[str]) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Both services; `seen` counts exports and spans."""

    def take_traces(raw: bytes, _: Any) -> bytes:
        request = traces.ExportTraceServiceRequest.FromString(raw)
        seen["exports"] += 1
        seen["spans"] += sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans)
        return b""

    def take_metrics(raw: bytes, _: Any) -> bytes:
        seen["metric_exports"] += 1
        seen["metric_bytes"] += len(raw)
        return metrics.ExportMetricsServiceResponse().SerializeToString()

    return [
        grpc.method_handlers_generic_handler(
            f"opentelemetry.proto.collector.{name}",
            {"Export": grpc.unary_unary_rpc_method_handler(take)},
        )
        for name, take in (
            ("trace.v1.TraceService", take_traces),
            ("metrics.v1.MetricsService", take_metrics),
        )
    ]


def main() -> None:
    """Serves until SIGTERM."""
    seen: Counter[str] = Counter()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(tuple(handlers(seen)))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    server.start()
    ending.wait()
    server.stop(1).wait()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
