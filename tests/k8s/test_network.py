"""NetworkPolicies are read as Kubernetes reads them."""

from __future__ import annotations

from typing import Any

import pytest

from tools.k8s.network import INTERNET, Pod, Policies, selects

CALLER = Pod("caller", {"app": "caller"}, {"http": 8080})
CALLED = Pod("called", {"app": "called"}, {"grpc": 50051, "metrics": 9464})
OUTSIDE = Pod("outside", address=INTERNET)


def policy(app: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec}}


def policies(*resources: dict[str, Any]) -> Policies:
    return Policies(resources, "citemesh")


def egress(*rules: dict[str, Any]) -> Policies:
    return policies(policy("caller", policyTypes=["Egress"], egress=list(rules)))


def test_without_a_policy_everything_is_open() -> None:
    assert policies().lets_out(CALLER, CALLED, 50051)
    assert policies().lets_in(CALLER, CALLED, 50051)
    assert not policies().isolated(CALLER)


def test_a_policy_without_rules_closes_its_direction_only() -> None:
    closed = policies(policy("caller", policyTypes=["Egress"]))
    assert not closed.lets_out(CALLER, CALLED, 50051)
    assert closed.lets_in(CALLED, CALLER, 8080)
    assert not closed.isolated(CALLER)


def test_a_policy_without_types_is_for_ingress_and_for_egress_where_it_has_rules() -> None:
    assert policies(policy("caller")).lets_out(CALLER, CALLED, 50051)
    assert not policies(policy("called")).lets_in(CALLER, CALLED, 50051)
    assert not policies(policy("caller", egress=[])).lets_out(CALLER, CALLED, 50051)


def test_rules_of_several_policies_add_up() -> None:
    both = policies(
        policy("caller", policyTypes=["Egress"]),
        policy("caller", policyTypes=["Egress"], egress=[{"ports": [{"port": 50051}]}]),
    )
    assert both.lets_out(CALLER, CALLED, 50051)
    assert not both.lets_out(CALLER, CALLED, 9464)


@pytest.mark.parametrize(
    ("peer", "open_to_pod", "open_to_internet"),
    [
        ({"podSelector": {"matchLabels": {"app": "called"}}}, True, False),
        ({"podSelector": {"matchLabels": {"app": "other"}}}, False, False),
        ({"podSelector": {}}, True, False),
        ({"namespaceSelector": {}}, True, False),
        (
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
            False,
            False,
        ),
        (
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "citemesh"}},
                "podSelector": {"matchLabels": {"app": "called"}},
            },
            True,
            False,
        ),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, True, True),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}}, True, False),
        (
            {
                "ipBlock": {
                    "cidr": "0.0.0.0/0",
                    "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"],
                }
            },
            False,
            True,
        ),
    ],
)
def test_a_peer_is_who_it_selects(
    peer: dict[str, Any], open_to_pod: bool, open_to_internet: bool
) -> None:
    found = egress({"to": [peer]})
    assert found.lets_out(CALLER, CALLED, 50051) is open_to_pod
    assert found.lets_out(CALLER, OUTSIDE, 443) is open_to_internet


def test_a_rule_without_peers_is_for_everybody() -> None:
    for rule in ({}, {"to": []}, {"to": None}):
        assert egress(rule).lets_out(CALLER, CALLED, 50051)
        assert egress(rule).lets_out(CALLER, OUTSIDE, 443)


@pytest.mark.parametrize(
    ("port", "covers"),
    [
        ({"port": 50051}, True),
        ({"port": "grpc"}, True),
        ({"port": "metrics"}, False),
        ({"port": "unheard"}, False),
        ({"port": 50000, "endPort": 50100}, True),
        ({"port": 50000, "endPort": 50050}, False),
        ({"port": 50051, "protocol": "UDP"}, False),
        ({"protocol": "TCP"}, True),
    ],
)
def test_a_port_is_a_number_a_name_of_the_called_or_a_range(
    port: dict[str, Any], covers: bool
) -> None:
    assert egress({"ports": [port]}).lets_out(CALLER, CALLED, 50051) is covers


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({"key": "app", "operator": "In", "values": ["called"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["called"]}, False),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_expressions_select(rule: dict[str, Any], matches: bool) -> None:
    assert selects({"matchExpressions": [rule]}, CALLED.labels) is matches


def test_an_operator_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="Contains"):
        selects({"matchExpressions": [{"key": "app", "operator": "Contains"}]}, {})
