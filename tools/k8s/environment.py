"""Compares the environment of containers in a rendering with what their processes read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Resource = Mapping[str, Any]
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Given:
    """Where a variable has its value from."""

    value: str = ""
    """In plain text; empty for a reference."""
    reference: str = ""
    """`secretKeyRef`, `fieldRef` and the like; empty for plain text."""


def given(resources: Iterable[Resource]) -> dict[str, dict[str, Given]]:
    """The environment of every container that a Deployment starts, by component.

    Raises:
        KeyError: a ConfigMap that is not rendered.
    """
    known = list(resources)
    maps = {each["metadata"]["name"]: each for each in known if each["kind"] == "ConfigMap"}
    found: dict[str, dict[str, Given]] = {}
    for resource in known:
        if resource["kind"] != "Deployment":
            continue
        variables = found.setdefault(resource["metadata"]["labels"][COMPONENT], {})
        for container in resource["spec"]["template"]["spec"]["containers"]:
            for source in container.get("envFrom", ()):
                data = maps[source["configMapRef"]["name"]].get("data", {})
                variables |= {name: Given(value) for name, value in data.items()}
            for entry in container.get("env", ()):
                reference = next(iter(entry.get("valueFrom", ())), "")
                variables[entry["name"]] = Given(entry.get("value", ""), reference)
    return found


def repeated(resources: Iterable[Resource]) -> Iterator[str]:
    """Variables that a container is given twice: an API server keeps one and warns of it."""
    for resource in resources:
        if resource["kind"] != "Deployment":
            continue
        for container in resource["spec"]["template"]["spec"]["containers"]:
            names = Counter(entry["name"] for entry in container.get("env", ()))
            for name, times in names.items():
                if times > 1:
                    yield f"{resource['metadata']['name']} is given {name} {times} times"


def unread(
    environment: Mapping[str, Mapping[str, Given]],
    read: Mapping[str, Any],
    exceptions: Mapping[str, str],
    used: set[str],
) -> Iterator[str]:
    """Variables that are given to a component which does not read them, or in plain text.

    Args:
        environment: Of every component of a rendering, by its name in Kubernetes.
        read: As `k8s/helm/citemesh/variables.yaml` has it.
        exceptions: Variables that something else in the container reads, or that are typed
            as secrets and are none, and why.
        used: Collects the exceptions that were needed.
    """
    for name, component in read["components"].items():
        secret = {each for names in component["secret"].values() for each in names}
        known = {*component["settings"], *component["libraries"], *read["everywhere"], *secret}
        for variable, how in environment.get(name.replace("_", "-"), {}).items():
            if variable not in known:
                problem = f"{name} is given {variable}, which it does not read"
            elif variable in secret and how.reference != "secretKeyRef":
                problem = f"{name} is given the secret {variable} in plain text"
            else:
                continue
            if variable in exceptions:
                used.add(variable)
            else:
                yield problem


def ungiven(
    environments: Iterable[Mapping[str, Mapping[str, Given]]],
    read: Mapping[str, Any],
    exceptions: Mapping[str, str],
    used: set[str],
) -> Iterator[str]:
    """Settings that no rendering gives to their component, by none of their names.

    Args:
        environments: One for each rendering; that of every setting through `config` among them.
        read: As `k8s/helm/citemesh/variables.yaml` has it.
        exceptions: Settings that a cluster does without, and why.
        used: Collects the exceptions that were needed.
    """
    seen: dict[str, set[str]] = {}
    for environment in environments:
        for name, variables in environment.items():
            seen.setdefault(name, set()).update(variables)
    for name, component in read["components"].items():
        there = seen.get(name.replace("_", "-"), set())
        groups = [[each] for each in component["settings"]]
        for names in (*groups, *component["secret"].values()):
            if there.isdisjoint(names):
                if names[0] in exceptions:
                    used.add(names[0])
                else:
                    yield f"{name} reads {names[0]}, which the chart cannot give it"
