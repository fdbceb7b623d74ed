"""The names that telemetry may use, read from `schema.yaml`: declared there or nowhere.

Instruments are made from it, the page docs/telemetry.md is written from it, queries of
dashboards and alerts are checked against it, and a test compares it with what a running
mesh sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("schema.yaml")

UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes", "USD": "_USD"}
"""What Prometheus' names end in; units in braces and `1` add nothing."""


class Undeclared(LookupError):
    """A name that `schema.yaml` does not have."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """What a span, event or data point may carry."""

    name: str
    brief: str
    values: tuple[str, ...] = ()
    """All there are, where they are few."""


@dataclass(frozen=True, slots=True)
class SpanKind:
    """A span, or a family of spans that share a pattern."""

    name: str
    brief: str
    kind: str
    """`server`, `client` or `internal`."""
    pattern: re.Pattern[str]
    attributes: frozenset[str]
    events: frozenset[str]


@dataclass(frozen=True, slots=True)
class Metric:
    """An instrument."""

    name: str
    brief: str
    instrument: str
    """`counter`, `histogram`, `gauge` or `up_down_counter`."""
    unit: str
    attributes: frozenset[str]
    boundaries: tuple[float, ...] = ()
    """Upper edges of a histogram's buckets."""

    @property
    def prometheus(self) -> str:
        """Name in Prometheus, of a histogram without `_bucket`, `_sum` and `_count`."""
        suffix = UNIT_SUFFIXES.get(self.unit, "")
        name = self.name.replace(".", "_")
        if not name.endswith(suffix):
            name += suffix
        return name + "_total" if self.instrument == "counter" else name

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query may use."""
        if self.instrument == "histogram":
            return tuple(f"{self.prometheus}_{part}" for part in ("bucket", "sum", "count"))
        return (self.prometheus,)

    @property
    def labels(self) -> frozenset[str]:
        """Its attributes as Prometheus spells them."""
        return frozenset(name.replace(".", "_") for name in self.attributes)


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that is declared."""

    attributes: Mapping[str, Attribute]
    spans: tuple[SpanKind, ...]
    everywhere: frozenset[str]
    """Attributes that every span may carry."""
    events: Mapping[str, frozenset[str]]
    """Attributes of each event."""
    event_briefs: Mapping[str, str]
    metrics: Mapping[str, Metric]
    exported: Mapping[str, str] = field(default_factory=dict)
    """Series of libraries that stand beside ours at an end point, by their Prometheus name."""

    def metric(self, name: str) -> Metric:
        """A declared instrument.

        Raises:
            Undeclared: with the name.
        """
        try:
            return self.metrics[name]
        except KeyError:
            raise Undeclared(f"the metric {name} is not declared in {FILE.name}") from None

    def span(self, name: str, kind: str) -> SpanKind:
        """The declared span of a name.

        Raises:
            Undeclared: with the name.
        """
        for found in self.spans:
            if found.kind == kind and found.pattern.fullmatch(name):
                return found
        raise Undeclared(f"the {kind} span {name} is not declared in {FILE.name}")


@cache
def schema() -> Schema:
    """The schema; read once."""
    # libyaml, where the wheel has it, reads the file in a few milliseconds.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return parse(yaml.load(FILE.read_text("utf-8"), loader))  # noqa: S506 - a safe loader


def parse(content: Mapping[str, Any]) -> Schema:
    """A schema from the file's content.

    Raises:
        Undeclared: a span, event or metric names an attribute that is not declared.
    """
    attributes = {
        name: Attribute(name, said["brief"], tuple(map(str, said.get("values", ()))))
        for name, said in content["attributes"].items()
    }
    known = frozenset(attributes)
    events = {
        name: _declared(known, name, said.get("attributes", ()))
        for name, said in content["events"].items()
    }
    spans = tuple(
        SpanKind(
            name,
            said["brief"],
            said["kind"],
            re.compile(said.get("pattern") or re.escape(name)),
            _declared(known, name, said.get("attributes", ())),
            _declared(frozenset(events), name, said.get("events", ())),
        )
        for name, said in content["spans"].items()
    )
    boundaries = content["boundaries"]
    metrics = {
        name: Metric(
            name,
            said["brief"],
            said["instrument"],
            str(said.get("unit", "1")),
            _declared(known, name, said.get("attributes", ())),
            tuple(boundaries[said["boundaries"]]) if "boundaries" in said else (),
        )
        for name, said in content["metrics"].items()
    }
    return Schema(
        attributes,
        spans,
        _declared(known, "everywhere", content["everywhere"]),
        events,
        {name: said["brief"] for name, said in content["events"].items()},
        metrics,
        dict(content["exported"]),
    )


def _declared(known: frozenset[str], owner: str, names: Any) -> frozenset[str]:
    found = frozenset(names)
    if missing := sorted(found - known):
        raise Undeclared(f"{owner} uses {', '.join(missing)}, which {FILE.name} does not declare")
    return found
