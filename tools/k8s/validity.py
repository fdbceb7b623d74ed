"""Whether every resource is one that Kubernetes takes, of the oldest release and the newest.

Kinds of others (`custom_resources`) have rules of our own; a kind that has neither is invalid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

from tools.k8s.custom_resources import RULES

RELEASES = ("1.30", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that Chart.yaml names, and the newest that there are schemas of."""

# It would read two megabytes of definitions again for every resource.
utils.schema_contents = cache(utils.schema_contents)


def named(resource: Mapping[str, Any]) -> str:
    """`Deployment citemesh-gateway`."""
    return f"{resource['kind']} {resource['metadata']['name']}"


def is_custom(resource: Mapping[str, Any]) -> bool:
    """Whether a rule of our own stands for the schema."""
    return (resource["apiVersion"], resource["kind"]) in RULES


def problems(resource: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a resource, a sentence for each release that refuses it."""
    if is_custom(resource):
        try:
            jsonschema.validate(resource, RULES[resource["apiVersion"], resource["kind"]])
        except jsonschema.ValidationError as error:
            yield _said(resource, "our rule", error)
        return
    for release in RELEASES:
        try:
            kubernetes_validate.validate(resource, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield _said(resource, release, error)
        except kubernetes_validate.SchemaNotFoundError:
            where = f"{resource['apiVersion']} in Kubernetes {release}"
            yield f"{named(resource)}: not found as {where}, nor is there a rule of ours"


def _said(resource: Mapping[str, Any], who: str, error: jsonschema.ValidationError) -> str:
    where = ".".join(str(part) for part in error.path)
    return f"{named(resource)} ({who}): {where}: {error.message[:300]}"
