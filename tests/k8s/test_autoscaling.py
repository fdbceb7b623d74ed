"""Autoscalers ask for series that processes serve and the adapter passes on."""

from __future__ import annotations

import re
from typing import Any

import yaml

from meshkit.telemetry.schema import schema
from tools.k8s.facts import CHART, OBSERVABILITY

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
ADAPTER: dict[str, Any] = yaml.safe_load((OBSERVABILITY / "external-metrics.yaml").read_text())
ASKED = {
    service["autoscaling"]["external"]["metric"]
    for service in VALUES["services"].values()
    if "external" in service["autoscaling"]
}


def test_every_service_scales_by_processors_or_by_what_waits() -> None:
    by_processors = {
        name for name, service in VALUES["services"].items() if "cpu" in service["autoscaling"]
    }
    assert by_processors == {"embedding", "embedding_bulk", "rerank"}
    for name in set(VALUES["services"]) - by_processors:
        assert "external" in VALUES["services"][name]["autoscaling"], name


def test_what_autoscalers_ask_for_is_declared_telemetry() -> None:
    declared = {series for metric in schema().metrics.values() for series in metric.series}
    assert ASKED
    assert declared >= ASKED


def test_the_adapter_serves_what_autoscalers_ask_for_and_nothing_else() -> None:
    queries = [rule["seriesQuery"] for rule in ADAPTER["rules"]["external"]]
    served = {found[0] for query in queries if (found := re.match(r"\w+", query))}
    assert served == ASKED
