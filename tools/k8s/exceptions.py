"""What `make k8s-check` lets pass: k8s/exceptions.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from tools.k8s.facts import ROOT

FILE = ROOT / "k8s" / "exceptions.toml"


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule of the policy checker that does not hold for some resources."""

    check: str
    kinds: tuple[str, ...]
    """Kinds of resources that it is lifted for; no others."""
    reason: str


@dataclass(frozen=True, slots=True)
class Exceptions:
    """All of them."""

    environment: Mapping[str, str]
    """Variables and why."""
    policies: tuple[Policy, ...]


def load() -> Exceptions:
    """Reads the file.

    Raises:
        ValueError: one without its reason.
    """
    said = tomllib.loads(FILE.read_text("utf-8"))
    environment = {each["variable"]: each["reason"] for each in said.get("environment", ())}
    policies = tuple(
        Policy(each["check"], tuple(each["kinds"]), each["reason"])
        for each in said.get("policy", ())
    )
    reasons = [*environment.values(), *(policy.reason for policy in policies)]
    if not all(reason.strip() for reason in reasons):
        raise ValueError(f"{FILE.name}: an exception without a reason")
    return Exceptions(environment, policies)
