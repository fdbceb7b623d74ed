"""Who may talk to whom by the NetworkPolicies of a rendering, as Kubernetes reads them.

A connection is open when a policy of the caller lets it out and one of the called lets it in;
a pod that no policy selects for a direction is open in that direction. Both sides are judged
apart, so that an edge that only one of them knows is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Resource = Mapping[str, Any]

INTERNET = "8.8.8.8"
"""Stands for every address outside."""
POD_NETWORKS = ("10.1.2.3", "100.64.1.2", "172.20.1.2", "192.168.1.2")
"""An address in each of the networks that clusters give their pods."""
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that a rendering starts."""

    name: str
    """`app.kubernetes.io/component`, or the name of its workload."""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Container ports by name."""
    address: str = ""
    """Of a pod outside of the release; empty for a pod of the release, wherever it runs."""


def pods(resources: Iterable[Resource]) -> list[Pod]:
    """Every pod that these resources start, one for each workload."""
    found = []
    for resource in resources:
        if resource["kind"] in WORKLOADS:
            template = resource["spec"]["template"]
        elif resource["kind"] == "Pod":
            template = resource
        else:
            continue
        labels = template["metadata"].get("labels", {})
        ports = {
            port["name"]: port["containerPort"]
            for container in template["spec"]["containers"]
            for port in container.get("ports", ())
        }
        component = labels.get("app.kubernetes.io/component")
        found.append(Pod(component or resource["metadata"]["name"], labels, ports))
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything.

    Raises:
        ValueError: an operator that Kubernetes does not have.
    """
    wanted = selector.get("matchLabels", {})
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    return all(_holds(rule, labels) for rule in selector.get("matchExpressions", ()))


def _holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = rule["key"], rule.get("values", ())
    match rule["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"no selector has the operator {rule['operator']!r}")


class Policies:
    """The NetworkPolicies of one rendering, all in one namespace."""

    def __init__(self, resources: Iterable[Resource], namespace: str) -> None:
        self._policies = [
            resource["spec"] for resource in resources if resource["kind"] == "NetworkPolicy"
        ]
        self._namespace = {"kubernetes.io/metadata.name": namespace}

    def isolated(self, pod: Pod) -> bool:
        """Whether nothing goes into or out of a pod but what a policy allows."""
        return all(list(self._of(pod, way)) for way in ("Ingress", "Egress"))

    def lets_out(self, caller: Pod, called: Pod, port: int) -> bool:
        """Whether the caller's side allows the connection."""
        return self._allowed(caller, called, port, "Egress", "to", called.ports)

    def lets_in(self, caller: Pod, called: Pod, port: int) -> bool:
        """Whether the side of the called allows the connection."""
        return self._allowed(called, caller, port, "Ingress", "from", called.ports)

    def _of(self, pod: Pod, way: str) -> Iterator[Mapping[str, Any]]:
        for policy in self._policies:
            types = policy.get("policyTypes") or ["Ingress", *(["Egress"] * ("egress" in policy))]
            if way in types and selects(policy["podSelector"], pod.labels):
                yield policy

    def _allowed(
        self, pod: Pod, other: Pod, port: int, way: str, peers: str, names: Mapping[str, int]
    ) -> bool:
        policies = list(self._of(pod, way))
        rules = [rule for policy in policies for rule in policy.get(way.lower()) or ()]
        return not policies or any(
            _has_port(rule.get("ports"), port, names) and self._has_peer(rule.get(peers), other)
            for rule in rules
        )

    def _has_peer(self, peers: Sequence[Mapping[str, Any]] | None, other: Pod) -> bool:
        return not peers or any(self._is(peer, other) for peer in peers)

    def _is(self, peer: Mapping[str, Any], other: Pod) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            addresses = (other.address,) if other.address else POD_NETWORKS
            return any(_within(address, block) for address in addresses)
        if other.address:
            return False
        namespaces = peer.get("namespaceSelector")
        there = namespaces is None or selects(namespaces, self._namespace)
        return there and selects(peer.get("podSelector", {}), other.labels)


def _within(address: str, block: Mapping[str, Any]) -> bool:
    where = ip_address(address)
    outside = any(where in ip_network(each) for each in block.get("except", ()))
    return where in ip_network(block["cidr"]) and not outside


def _has_port(
    ports: Sequence[Mapping[str, Any]] | None, port: int, names: Mapping[str, int]
) -> bool:
    return not ports or any(
        entry.get("protocol", "TCP") == "TCP" and _covers(entry, port, names) for entry in ports
    )


def _covers(entry: Mapping[str, Any], port: int, names: Mapping[str, int]) -> bool:
    given = entry.get("port")
    if given is None:
        return True
    first = names.get(given, -1) if isinstance(given, str) else int(given)
    return first <= port <= int(entry.get("endPort", first))
