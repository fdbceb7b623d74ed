"""Holds dashboards and alerts to the schema of telemetry: `k8s/observability`.

    python -m tools.observability       # 1 and what is wrong

Every query has to parse as PromQL, to ask for series that some process serves or some rule
records, by labels that they have and values that exist; every alert has to say how bad it
is and to link to a heading of docs/runbook.md. Where Prometheus' own `promtool` is installed
it reads the rules, too.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from meshkit.telemetry.schema import Metric, Schema, schema

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "k8s" / "observability"
RUNBOOK = "docs/runbook.md"
TARGET_LABELS = frozenset({"namespace", "job", "instance", "pod", "service", "container"})
"""What Prometheus adds to every series it scrapes."""
SEVERITIES = ("page", "ticket")
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$namespace": "citemesh"}
"""Of Grafana, and what stands for them here."""


class Names:
    """The series that a query may ask for, with the labels of each."""

    def __init__(self, said: Schema, recorded: Mapping[str, frozenset[str]]) -> None:
        self._metrics: dict[str, Metric] = {
            name: metric for metric in said.metrics.values() for name in metric.series
        }
        self._exported = said.exported
        self._recorded = recorded
        self._values = {
            attribute.name.replace(".", "_"): attribute.values
            for attribute in said.attributes.values()
            if attribute.values
        }

    def problems(self, query: str) -> Iterator[str]:
        """What is wrong with a query."""
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        try:
            tree = promql.parse(query)
        except ValueError as error:
            yield f"does not parse: {error}: {query}"
            return
        nodes = list(walked(tree))
        selectors = [node for node in nodes if isinstance(node, promql.VectorSelector)]
        labels: set[str] = set()
        for selector in selectors:
            known = self._labels(str(selector.name))
            if known is None:
                yield f"asks for {selector.name}, which nobody serves"
                continue
            labels |= known
            yield from self._matchers(selector, known)
        for label in grouped(nodes) - labels:
            yield f"groups by {label}, which none of its series has"

    def _labels(self, name: str) -> frozenset[str] | None:
        if name in self._metrics:
            own = self._metrics[name].labels
            return own | TARGET_LABELS | ({"le"} if name.endswith("_bucket") else set())
        if name in self._recorded:
            return self._recorded[name]
        return TARGET_LABELS | {"service_namespace"} if name in self._exported else None

    def _matchers(self, selector: Any, known: frozenset[str]) -> Iterator[str]:
        for matcher in selector.matchers.matchers:
            if matcher.name not in known:
                yield f"selects {selector.name} by {matcher.name}, a label it does not have"
            values = self._values.get(matcher.name)
            equal = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
            if values and equal and matcher.value not in values:
                yield f"selects {matcher.name}={matcher.value!r}, which does not exist"


def walked(tree: Any) -> Iterator[Any]:
    """Every node of an expression."""
    found: list[Any] = []
    promql.walk(tree, found.append)
    yield from found


def grouped(nodes: Iterable[Any]) -> set[str]:
    """Labels that aggregations keep."""
    by = (node.modifier for node in nodes if isinstance(node, promql.AggregateExpr))
    return {label for modifier in by if modifier is not None for label in modifier.labels}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: str) -> set[str]:
    """The anchors of a Markdown page's headings."""
    return {slug(line.lstrip("#").strip()) for line in page.splitlines() if line.startswith("#")}


def recorded(rules: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Series that rules record, with the labels their aggregations leave."""
    found = {}
    for rule in rules:
        if "record" in rule:
            found[rule["record"]] = frozenset(grouped(walked(promql.parse(rule["expr"]))))
    return found


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Titles of panels and their queries."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def alert_problems(rule: dict[str, Any], headings: set[str]) -> Iterator[str]:
    """What is wrong with an alert besides its query."""
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        yield f"has no severity of {', '.join(SEVERITIES)}"
    said = rule.get("annotations", {})
    if not (said.get("summary") and said.get("description")):
        yield "has no summary or no description"
    page, _, anchor = said.get("runbook_url", "").rpartition("#")
    if not page.endswith(RUNBOOK) or anchor not in headings:
        yield f"links to {said.get('runbook_url')!r}, which {RUNBOOK} does not have"


def unknown_names(page: str) -> Iterator[str]:
    """Settings and reasons that a page names and that do not exist."""
    settings = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    reasons = (ROOT / "docs" / "errors.md").read_text("utf-8")
    for name in sorted(set(re.findall(r"`([A-Z]+(?:_[A-Z<>]+)+)`", page))):
        # `CITEMESH_<SERVICE>_X` is documented as `CITEMESH_X`.
        known = settings if name.startswith(("CITEMESH_", "OTEL_")) else reasons
        if f"`{name.replace('<SERVICE>_', '')}`" not in known:
            yield f"{RUNBOOK} names {name}, which does not exist"


def problems(folder: Path, runbook: str) -> Iterator[str]:
    """What is wrong with the files of a folder."""
    files = {path: yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("rules/*.yaml")}
    rules = [rule for content in files.values() for g in content["groups"] for rule in g["rules"]]
    names = Names(schema(), recorded(rules))
    headings = anchors(runbook)
    for rule in rules:
        where = rule.get("alert") or rule.get("record")
        yield from (f"{where} {problem}" for problem in names.problems(rule["expr"]))
        if "alert" in rule:
            yield from (f"{where} {problem}" for problem in alert_problems(rule, headings))
    for path in sorted(folder.glob("dashboards/*.json")):
        dashboard = json.loads(path.read_text("utf-8"))
        for title, query in queries(dashboard):
            yield from (f"{path.name}: {title!r} {found}" for found in names.problems(query))
    yield from unknown_names(runbook)
    if not rules or not list(folder.glob("dashboards/*.json")):
        yield f"{folder} has no rules or no dashboards"


def promtool(folder: Path) -> Iterator[str]:
    """What Prometheus' own tool says of the rules, where it is installed."""
    program = shutil.which("promtool")
    if program is not None:
        files = sorted(map(str, folder.glob("rules/*.yaml")))
        done = subprocess.run(
            [program, "check", "rules", *files], capture_output=True, text=True, check=False
        )
        if done.returncode:
            yield done.stdout + done.stderr


def main() -> int:
    """Prints what is wrong."""
    runbook = (ROOT / RUNBOOK).read_text("utf-8")
    found = [*problems(FOLDER, runbook), *promtool(FOLDER)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
