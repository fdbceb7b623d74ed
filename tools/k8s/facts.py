"""What the chart knows about the mesh, taken from where it is decided.

Helm reads files below the chart only. So the list of components (libs/meshkit/components.py)
and the dashboards and rules (k8s/observability) are written into `k8s/helm/citemesh/files`;
`make k8s` writes them and a check refuses a chart in which they are old.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from meshkit.components import Component

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "k8s" / "helm" / "citemesh"
OBSERVABILITY = ROOT / "k8s" / "observability"


def mesh() -> tuple[Component, ...]:
    """The components of the mesh."""
    # Standard library only, so it can be read without the project's own environment.
    sys.path.insert(0, str(ROOT / "libs"))
    try:
        from meshkit.components import COMPONENTS
    finally:
        sys.path.pop(0)
    return COMPONENTS


def components() -> list[dict[str, Any]]:
    """The components of the mesh, as the chart's templates read them."""
    return [
        {
            "name": component.name,
            "service": component.service,
            "grpcService": component.grpc_service,
            "usesDatabase": component.uses_database,
            "signs": component.signs,
            "callsProviders": component.calls_providers,
            "calls": list(component.calls),
            "observes": list(component.observes),
            "environment": dict(component.environment),
        }
        for component in mesh()
    ]


def files() -> dict[Path, str]:
    """Every derived file of the chart and what belongs into it."""
    head = "# Made by `make k8s` from libs/meshkit/components.py.\n"
    listed = yaml.safe_dump({"components": components()}, sort_keys=False)
    found = {CHART / "files" / "components.yaml": head + listed}
    for source in sorted((*OBSERVABILITY.glob("*/*.json"), *OBSERVABILITY.glob("*/*.yaml"))):
        place = CHART / "files" / "observability" / source.relative_to(OBSERVABILITY)
        found[place] = source.read_text()
    return found
