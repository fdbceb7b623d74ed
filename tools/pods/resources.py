"""The resources that a render holds, found by kind and name, and what pods read from them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Resource = Mapping[str, Any]


class Dangling(Exception):
    """A resource refers to one that is not there."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that was applied, as an API server would hold it."""

    by_name: Mapping[tuple[str, str], Resource] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Resources:
        """Resources by kind and name; the later of two wins."""
        return cls({(each["kind"], each["metadata"]["name"]): each for each in resources})

    def kind(self, kind: str) -> list[Resource]:
        """All of a kind, in the order they were given."""
        return [resource for (found, _), resource in self.by_name.items() if found == kind]

    def services_of(self, labels: Mapping[str, str]) -> list[str]:
        """Names of the Services whose selector matches a pod's labels."""
        return [
            service["metadata"]["name"]
            for service in self.kind("Service")
            if service["spec"].get("selector", {}).items() <= labels.items()
        ]

    def content(self, kind: str, name: str, *, optional: bool = False) -> dict[str, str]:
        """Keys and values of a ConfigMap or Secret; nothing when it is optional and not there.

        Raises:
            Dangling: when there is none and it is not optional.
        """
        found = self.by_name.get((kind, name))
        if found is None:
            if optional:
                return {}
            raise Dangling(f"there is no {kind} {name}")
        plain = dict(found.get("stringData" if kind == "Secret" else "data") or {})
        if kind == "Secret":
            encoded = found.get("data") or {}
            plain = {k: base64.b64decode(v).decode() for k, v in encoded.items()} | plain
        return plain

    def value(self, kind: str, name: str, key: str, *, optional: bool = False) -> str | None:
        """One value of a ConfigMap or Secret; None when it is optional and not there.

        Raises:
            Dangling: when it is not there and not optional.
        """
        found = self.content(kind, name, optional=optional).get(key)
        if found is None and not optional:
            raise Dangling(f"{kind} {name} has no {key}")
        return found
