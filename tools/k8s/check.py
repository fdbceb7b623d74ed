"""`make k8s-check`: everything that can be said about the Kubernetes part without a cluster.

    python -m tools.k8s.check --python .venv/bin/python

Runs in .venv-k8s (k8s/requirements.txt). The project's own Python is asked only whether the
chart's list of settings is current. Prints what is wrong, a table, and one JSON object; exit
code 0 only when nothing is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from tools.k8s import calls, cases, environment, exceptions, graph, policy, render, validity
from tools.k8s.facts import CHART, ROOT, files, mesh

Resources = list[dict[str, Any]]
WARNING = 2
"""Severity of helm lint from which a message is a problem."""
MAPS = frozenset(
    {
        *(f"gateway.{each}.annotations" for each in ("service", "ingress", "httpRoute")),
        *(f"telemetry.{each}.labels" for each in ("podMonitor", "rules", "dashboards")),
        # Copied whole into fields of Kubernetes' own, whose schema they are checked by.
        *("defaults.affinity", "podSecurityContext", "podSecurityContext.seccompProfile"),
        *("securityContext", "securityContext.capabilities"),
    }
)
"""Values that are maps of the site's own, in which no key is unknown."""


@dataclass(slots=True)
class Result:
    """How one part ended."""

    key: str
    """In the JSON object, holding the number of problems."""
    shows: str
    problems: list[str]
    seconds: float


@dataclass
class Checks:
    """What is rendered, and every check of it."""

    python: str
    """Of the project's own environment."""
    excepted: exceptions.Exceptions = field(default_factory=exceptions.load)
    used_variables: set[str] = field(default_factory=set)
    used_policies: set[exceptions.Policy] = field(default_factory=set)

    @cached_property
    def read(self) -> dict[str, Any]:
        """The chart's list of what every component reads."""
        return dict(yaml.safe_load((CHART / "variables.yaml").read_text()))

    @cached_property
    def every_case(self) -> tuple[cases.Case, ...]:
        """Everything that is rendered."""
        return (*cases.CASES, cases.every_setting(self.read))

    @cached_property
    def rendered(self) -> dict[cases.Case, Resources]:
        """The resources of each case."""
        return {case: render.render(case.values(), name=case.release) for case in self.every_case}

    @cached_property
    def distinct(self) -> Resources:
        """Every resource once, however many cases have it."""
        every = (each for resources in self.rendered.values() for each in resources)
        return list({json.dumps(each, sort_keys=True): each for each in every}.values())

    def lint(self) -> Iterator[str]:
        """`helm lint` of every case."""
        for case in self.every_case:
            report = helm.lint(CHART, case.values(), kube_version="v1.30.0")
            for message in report["messages"]:
                if message["severity"] >= WARNING:
                    yield f"{case.name}: {message['path']}: {message['error']}"

    def validity(self) -> Iterator[str]:
        """Schemas of Kubernetes, and rules for kinds of others."""
        for resource in self.distinct:
            yield from validity.problems(resource)

    def graph(self) -> Iterator[str]:
        """The code against what is declared, then every rendering against that."""
        components = mesh()
        for component in components:
            yield from calls.problems(component.name, calls.code_of(component.module), component)
        for case, resources in self.rendered.items():
            if case is not self.every_case[-1]:
                for problem in graph.problems(resources, components, render.RELEASE):
                    yield f"{case.name}: {problem}"

    def environment(self) -> Iterator[str]:
        """What containers are given against what processes read, both ways."""
        current = subprocess.run(
            (self.python, "-m", "tools.k8s.variables"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if current.returncode:
            yield f"{current.stdout}{current.stderr[-2000:]}"
        given = {case: environment.given(each) for case, each in self.rendered.items()}
        excepted = self.excepted.environment
        for case, found in given.items():
            for problem in environment.unread(found, self.read, excepted, self.used_variables):
                yield f"{case.name}: {problem}"
        for case, resources in self.rendered.items():
            for problem in environment.repeated(resources):
                yield f"{case.name}: {problem}"
        yield from environment.ungiven(given.values(), self.read, excepted, self.used_variables)

    def drift(self) -> Iterator[str]:
        """Derived files of the chart, and k8s/manifests, against what they are made from."""
        for make, folder in ((files, CHART / "files"), (render.manifests, render.MANIFESTS)):
            for path in render.stale(make(), (folder,)):
                yield f"{path.relative_to(ROOT)} is not current: make k8s"

    def unsafe(self) -> Iterator[str]:
        """Values that have to be refused, each with its sentence."""
        for case in cases.UNSAFE:
            try:
                render.render(render.merged(render.values_of(case.profile), case.over))
            except helm.HelmError as error:
                if not case.message or case.message not in str(error):
                    yield f"{case.profile} {case.over}: wanted {case.message!r}, got: {error}"
            else:
                yield f"{case.profile} {case.over} is accepted"

    def unknown_keys(self) -> Iterator[str]:
        """A key that means nothing, at every place where one can be."""
        chart = helm.Chart.load(CHART)
        for place, values in cases.unknown_keys(chart.merge_values(render.values_of("prod"))):
            try:
                chart.validate_schema(values)
            except helm.HelmValuesError:
                continue
            if place not in MAPS:
                yield f"{place}.unheardOf is accepted"

    def policies(self, report: policy.Report) -> Iterator[str]:
        """What checkov found and no exception lifts, and exceptions that nothing needs."""
        for finding in policy.left(report.findings, self.excepted.policies, self.used_policies):
            yield f"{finding.check} {finding.kind} {finding.resource}: {finding.name}"
        for each in self.excepted.policies:
            if each not in self.used_policies:
                yield f"the exception from {each.check} is not needed"
        for variable in self.excepted.environment.keys() - self.used_variables:
            yield f"the exception for {variable} is not needed"


def timed(key: str, shows: str, check: Callable[[], Iterator[str]]) -> Result:
    """One check, run to its end."""
    began = time.monotonic()
    return Result(key, shows, list(check()), time.monotonic() - began)


def run(checks: Checks) -> tuple[list[Result], policy.Report]:
    """Every check; checkov, the slow one, beside the others."""
    with tempfile.TemporaryDirectory() as folder:
        policy.write(checks.distinct, Path(folder), render.RELEASE)
        checkov = policy.start(Path(folder))
        try:
            results = [
                timed("lint_problems", "helm lint", checks.lint),
                timed("invalid", f"schemas of {', '.join(validity.RELEASES)}", checks.validity),
                timed("graph_mismatches", "call graph, policies, addresses", checks.graph),
                timed("environment_mismatches", "variables and settings", checks.environment),
                timed("drift", "what is derived is current", checks.drift),
                timed("unsafe_accepted", "unsafe values are refused", checks.unsafe),
                timed("unknown_keys_accepted", "unknown values are refused", checks.unknown_keys),
            ]
            began = time.monotonic()
            report = policy.finish(checkov)
        finally:
            checkov.kill()
    found = list(checks.policies(report))
    results.append(Result("policy_findings", "checkov", found, time.monotonic() - began))
    return results, report


def main() -> int:
    """Runs everything; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="tools.k8s.check")
    parser.add_argument("--python", default=sys.executable)
    began = time.monotonic()
    checks = Checks(parser.parse_args().python)
    results, report = run(checks)
    for result in results:
        if result.problems:
            print(f"--- {result.shows}", *result.problems, sep="\n", end="\n\n")
    for case, resources in checks.rendered.items():
        print(f"{len(resources):5} resources  {case.name}")
    custom = [each for each in checks.distinct if validity.is_custom(each)]
    kinds = sorted({each["kind"] for each in custom})
    print(f"{len(checks.distinct):5} distinct, {len(custom)} of them checked by a rule of ours for")
    print(f"      want of a schema: {', '.join(kinds)}")
    print(f"{report.passed:5} rules of checkov held\n")
    for each in checks.excepted.policies:
        print(f"excepted: {each.check} for {', '.join(each.kinds)}: {each.reason}")
    print()
    for result in results:
        verdict = "ok" if not result.problems else "FAILED"
        number = len(result.problems)
        print(f"{verdict:6}  {result.key:23} {result.shows:33} {number:4} {result.seconds:6.1f} s")
    said = {
        "resources": sum(len(resources) for resources in checks.rendered.values()),
        "distinct": len(checks.distinct),
        "custom_resources": len(custom),
        **{result.key: len(result.problems) for result in results},
        "policies_held": report.passed,
        "policy_exceptions": len(checks.used_policies),
        "unsafe_refused": len(cases.UNSAFE) - len(results[5].problems),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(said))
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
