"""Renders the chart: `make k8s` writes k8s/manifests, checks ask for any profile.

    python -m tools.k8s.render                # write what is derived
    python -m tools.k8s.render --check        # 1 and what is not current
    python -m tools.k8s.render dev            # print a profile as Helm would install it
    python -m tools.k8s.render prod --site F  # with a site's own values

Runs in .venv-k8s (k8s/requirements.txt): Helm 4 as a library, no `helm` and no cluster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.k8s.facts import CHART, ROOT, files

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads in a tenth of the time where libyaml is there."""
MANIFESTS = ROOT / "k8s" / "manifests"
PROFILES = ("dev", "prod", "airgap")
RELEASE = "citemesh"
"""Name of the release, and so of everything, in what is rendered here."""


def values_of(profile: str, site: Path | None = None) -> dict[str, Any]:
    """Values of a profile, with what a site adds to it (if unnamed `ci/<profile>-values.yaml`)."""
    values: dict[str, Any] = {}
    for path in (CHART / f"values-{profile}.yaml", site or CHART / f"ci/{profile}-values.yaml"):
        values = merged(values, yaml.safe_load(path.read_text()))
    return values


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `over` laid over those of `under`, as Helm lays one file over another."""
    found = dict(under)
    for key, value in over.items():
        below = found.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            found[key] = merged(below, value)
        else:
            found[key] = value
    return found


def render(
    values: Mapping[str, Any], *, name: str = RELEASE, namespace: str = RELEASE
) -> list[dict[str, Any]]:
    """Every resource of the chart with these values, hooks and tests too.

    Args:
        values: Laid over the chart's own.
        name: Of the release.
        namespace: Of the release.

    Raises:
        helm_python.HelmError: the values are refused by schema or template; it says which.
    """
    import helm_python as helm

    chart = helm.Chart.load(CHART)
    chart.validate_schema(chart.merge_values(dict(values)))
    texts = chart.render(dict(values), name=name, namespace=namespace, is_install=True)
    return [
        resource
        for path, text in sorted(texts.items())
        if not path.endswith("NOTES.txt")
        for resource in yaml.load_all(text, Loader=LOADER)
        if resource
    ]


def manifests() -> dict[Path, str]:
    """The files of k8s/manifests: profile prod without what only Helm understands.

    One file for each component and one for what belongs to none, so that a change is
    found where it is.
    """
    import helm_python as helm

    values = merged(values_of("prod"), yaml.safe_load((MANIFESTS / "values.yaml").read_text()))
    grouped: dict[str, list[dict[str, Any]]] = {}
    for resource in render(values):
        metadata = resource["metadata"]
        if "helm.sh/hook" in metadata.get("annotations", {}):
            continue
        _without_helm(resource)
        labels = metadata.get("labels", {})
        group = labels.get("app.kubernetes.io/component", "mesh")
        grouped.setdefault(group, []).append(resource)
    head = f"# Made by `make k8s` from the chart (Helm {helm.helm_sdk_version()}): do not edit.\n"
    found = {
        MANIFESTS / f"{group}.yaml": head + yaml.safe_dump_all(resources, sort_keys=False)
        for group, resources in sorted(grouped.items())
    }
    listing = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": RELEASE,
        "resources": [path.name for path in found],
    }
    found[MANIFESTS / "kustomization.yaml"] = head + yaml.safe_dump(listing, sort_keys=False)
    return found


def _without_helm(resource: dict[str, Any]) -> None:
    """Takes out the labels that say Helm manages it."""
    templates = [resource]
    inner = resource.get("spec", {}).get("template") if resource["kind"] != "PodMonitor" else None
    if isinstance(inner, dict):
        templates.append(inner)
    for each in templates:
        labels = each["metadata"].get("labels", {})
        labels.pop("helm.sh/chart", None)
        labels.pop("app.kubernetes.io/managed-by", None)


def stale(wanted: Mapping[Path, str], folders: tuple[Path, ...]) -> list[Path]:
    """Files that are missing, other than wanted, or in the folders without being wanted."""
    found = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    there = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    kept = {MANIFESTS / "values.yaml", MANIFESTS / "README.md"}
    return sorted({*found, *(path for path in there if path not in wanted and path not in kept)})


def write(wanted: Mapping[Path, str], folders: tuple[Path, ...]) -> None:
    """Makes the folders hold what is wanted."""
    for path in stale(wanted, folders):
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()


def main() -> int:
    """Writes, checks or prints; see the module."""
    parser = argparse.ArgumentParser(prog="tools.k8s.render")
    parser.add_argument("profile", nargs="?", choices=PROFILES)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--site", type=Path, help="values laid over the profile's")
    arguments = parser.parse_args()
    if arguments.profile:
        yaml.safe_dump_all(
            render(values_of(arguments.profile, arguments.site)), sys.stdout, sort_keys=False
        )
        return 0
    # The chart reads its derived files, so they come first.
    for make, folders in ((files, (CHART / "files",)), (manifests, (MANIFESTS,))):
        if arguments.check:
            if old := stale(make(), folders):
                print("Not current, run `make k8s`:", *(p.relative_to(ROOT) for p in old))
                return 1
        else:
            write(make(), folders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
