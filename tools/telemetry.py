"""Keeps docs/telemetry.md: every span, event, attribute and metric, from the schema.

    python -m tools.telemetry           # 1 and the difference when it is not current
    python -m tools.telemetry --write   # writes it

Also holds the code to the schema where it can be read: instruments are made by declared
names and of the declared kind, none is declared and never made, and the names of the
conventions for generative AI are spelled in one module. Spans and attributes are held to
it by tests/mesh/test_telemetry.py, which runs a mesh.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from meshkit.telemetry.schema import Metric, Schema, schema
from tools.page import Table, keep

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "telemetry.md"
SOURCES = ("gateway", "services", "libs/meshkit")
PINNED = ROOT / "libs/meshkit/telemetry/gen_ai.py"
MAKERS = {
    "counter": {"counter"},
    "up_down_counter": {"up_down_counter"},
    "histogram": {"histogram"},
    "gauge": {"gauge"},
    "observed": {"gauge", "up_down_counter"},
    "create_counter": {"counter"},
    "create_up_down_counter": {"up_down_counter"},
    "create_histogram": {"histogram"},
    "create_gauge": {"gauge"},
    "create_observable_gauge": {"gauge"},
    "create_observable_up_down_counter": {"up_down_counter"},
    "create_observable_counter": {"counter"},
}
"""Functions that make an instrument of a name, and the kinds they make."""

INTRODUCTION = """\
# Telemetry

Every name that the mesh's traces and metrics use. What is not in
`libs/meshkit/telemetry/schema.yaml` is not sent: an instrument that is not declared stops the
start, and a test refuses a span or an attribute that is not. How to collect, sample and look
at it: [operations/telemetry.md](operations/telemetry.md). What to do about an alert:
[runbook.md](runbook.md).

This page is made from the schema by `make docs`; `make check` fails when it is not current.
"""

METRICS = """\

## Metrics

The second column is the name in Prometheus; of a histogram `_bucket`, `_sum` and `_count`. No
label has a value for each project, document or request.
"""

SPANS = """\

## Spans

Every span may carry {everywhere} besides. Statements in Postgres and requests to OpenSearch have
a span in traces that are recorded. A call that was cancelled has status ERROR and
`citemesh.cancelled`; what only its caller did wrong has `error.type` and no status.
"""

EVENTS = "\n## Events on spans\n"
ATTRIBUTES = "\n## Attributes\n"
EXPORTED = "\n## Beside ours at a Prometheus end point\n"


def _names(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _metric(metric: Metric) -> tuple[str, ...]:
    kind = metric.instrument.replace("_", "-")
    unit = metric.unit.strip("{}")
    return (
        f"`{metric.name}`",
        f"`{metric.prometheus}`",
        kind,
        unit,
        _names(metric.attributes),
        metric.brief,
    )


def page(said: Schema) -> str:
    """The whole page."""
    metrics = Table(
        ("metric", "in Prometheus", "kind", "unit", "attributes", "what"),
        [_metric(metric) for metric in said.metrics.values()],
    )
    spans = Table(
        ("span", "kind", "attributes", "events", "what"),
        [
            (f"`{s.name}`", s.kind, _names(s.attributes), _names(s.events), s.brief)
            for s in said.spans
        ],
    )
    events = Table(
        ("event", "what"), [(f"`{name}`", brief) for name, brief in said.event_briefs.items()]
    )
    attributes = Table(
        ("attribute", "values", "what"),
        [
            (f"`{a.name}`", ", ".join(f"`{v}`" for v in a.values if v), a.brief)
            for a in said.attributes.values()
        ],
    )
    exported = Table(("series", "what"), [(f"`{n}`", b) for n, b in said.exported.items()])
    return "".join(
        (
            INTRODUCTION,
            METRICS,
            "\n",
            metrics.text(),
            SPANS.format(everywhere=_names(said.everywhere)),
            "\n",
            spans.text(),
            EVENTS,
            "\n",
            events.text(),
            ATTRIBUTES,
            "\n",
            attributes.text(),
            EXPORTED,
            "\n",
            exported.text(),
        )
    )


def problems(said: Schema) -> Iterator[str]:
    """What code and schema disagree about."""
    made: set[str] = set()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            where = path.relative_to(ROOT)
            for maker, name in instruments(tree):
                made.add(name)
                metric = said.metrics.get(name)
                if metric is None:
                    yield f"{where} makes the metric {name}, which the schema does not declare"
                elif metric.instrument not in MAKERS[maker]:
                    yield f"{where} makes {name} by {maker}; it is declared a {metric.instrument}"
            if path != PINNED:
                for name in generative(tree):
                    yield f"{where} spells {name}; its name belongs into {PINNED.name}"
    for name in said.metrics.keys() - made:
        yield f"the schema declares the metric {name}, which nothing makes"


def instruments(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Makers that are called with a written-out name, and the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            function, first = node.func, node.args[0]
            maker = function.attr if isinstance(function, ast.Attribute) else ""
            if isinstance(function, ast.Name):
                maker = function.id
            if maker in MAKERS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield maker, first.value


def generative(tree: ast.Module) -> Iterator[str]:
    """Names of the conventions for generative AI in strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).startswith("gen_ai."):
            yield str(node.value)


def main() -> int:
    """Compares or writes the page."""
    said = schema()
    return keep(PAGE, page(said), sorted(problems(said)), write="--write" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
