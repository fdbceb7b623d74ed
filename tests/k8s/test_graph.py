"""The manifests allow, tell and serve exactly the call graph, and every way to spoil it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshkit.components import COMPONENTS
from tools.k8s import graph

Resources = list[dict[str, Any]]


def problems(manifests: Resources) -> list[str]:
    return list(graph.problems(manifests, COMPONENTS, "citemesh"))


def of(manifests: Resources, kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name
    )
    return found


def policy(manifests: Resources, component: str) -> dict[str, Any]:
    found: dict[str, Any] = of(manifests, "NetworkPolicy", f"citemesh-{component}")["spec"]
    return found


def grpc(rules: list[dict[str, Any]]) -> dict[str, Any]:
    return next(rule for rule in rules if rule["ports"] == [{"port": 50051}])


def peer(component: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": "citemesh",
        "app.kubernetes.io/instance": "citemesh",
        "app.kubernetes.io/component": component,
    }
    return {"podSelector": {"matchLabels": labels}}


def test_the_manifests_are_the_call_graph(manifests: Resources) -> None:
    assert problems(manifests) == []


def no_way_out(manifests: Resources) -> None:
    rule = grpc(policy(manifests, "generation")["egress"])
    rule["to"] = [each for each in rule["to"] if each != peer("guardrail")]


def no_way_in(manifests: Resources) -> None:
    rule = grpc(policy(manifests, "guardrail")["ingress"])
    rule["from"] = [each for each in rule["from"] if each != peer("generation")]


def an_edge_too_much(manifests: Resources) -> None:
    grpc(policy(manifests, "ingestion")["egress"])["to"].append(peer("generation"))
    grpc(policy(manifests, "generation")["ingress"])["from"].append(peer("ingestion"))


def everybody_comes_in(manifests: Resources) -> None:
    grpc(policy(manifests, "rerank")["ingress"])["from"] = []


def no_isolation(manifests: Resources) -> None:
    for name in ("citemesh", "citemesh-rerank"):
        manifests.remove(of(manifests, "NetworkPolicy", name))


def a_way_into_the_internet(manifests: Resources) -> None:
    policy(manifests, "guardrail")["egress"].append({"ports": [{"port": 443}]})


def no_way_to_providers(manifests: Resources) -> None:
    spec = policy(manifests, "generation")
    spec["egress"] = [rule for rule in spec["egress"] if rule["ports"] != [{"port": 443}]]


def no_way_to_postgres(manifests: Resources) -> None:
    spec = policy(manifests, "rerank")
    spec["egress"] = [rule for rule in spec["egress"] if rule["ports"] != [{"port": 5432}]]


def one_connection(manifests: Resources) -> None:
    del of(manifests, "Service", "citemesh-rerank")["spec"]["clusterIP"]


def another_port(manifests: Resources) -> None:
    data = of(manifests, "ConfigMap", "citemesh-gateway")["data"]
    data["CITEMESH_RETRIEVAL_ADDRESS"] = "dns:///citemesh-retrieval:50052"


def the_lanes_are_one(manifests: Resources) -> None:
    data = of(manifests, "ConfigMap", "citemesh-ingestion")["data"]
    data["CITEMESH_EMBEDDING_BULK_ADDRESS"] = "dns:///citemesh-embedding:50051"


def a_certificate_of_another_name(manifests: Resources) -> None:
    spec = of(manifests, "Deployment", "citemesh-rerank")["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "tls", "secret": {"secretName": "citemesh-tls-rerank"}})
    certificate = {"secretName": "citemesh-tls-rerank", "dnsNames": ["rerank"]}
    manifests.append({"kind": "Certificate", "metadata": {"name": "rerank"}, "spec": certificate})


def an_address_too_much(manifests: Resources) -> None:
    data = of(manifests, "ConfigMap", "citemesh-gateway")["data"]
    data["CITEMESH_GUARDRAIL_ADDRESS"] = "dns:///citemesh-guardrail:50051"


def no_address(manifests: Resources) -> None:
    del of(manifests, "ConfigMap", "citemesh-retrieval")["data"]["CITEMESH_RERANK_ADDRESS"]


def nobody_starts_it(manifests: Resources) -> None:
    manifests.remove(of(manifests, "Deployment", "citemesh-guardrail"))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_way_out, "generation -> guardrail:grpc is not allowed by the egress side"),
        (no_way_in, "generation -> guardrail:grpc is not allowed by the ingress side"),
        (an_edge_too_much, "ingestion -> generation:grpc is allowed by the egress side"),
        (an_edge_too_much, "ingestion -> generation:grpc is allowed by the ingress side"),
        (everybody_comes_in, "guardrail -> rerank:grpc is allowed by the ingress side"),
        (no_isolation, "rerank is not isolated: no policy selects it for both directions"),
        (a_way_into_the_internet, "guardrail reaches the internet and calls nobody there"),
        (no_way_to_providers, "generation does not reach the internet: providers"),
        (no_way_to_postgres, "rerank does not reach Postgres"),
        (
            one_connection,
            "the Service is not headless, so one connection has one replica",
        ),
        (
            another_port,
            "at dns:///citemesh-retrieval:50052: the pods serve gRPC at 50051",
        ),
        (
            the_lanes_are_one,
            "citemesh-embedding:50051: the Service selects ['embedding']",
        ),
        (
            a_certificate_of_another_name,
            "retrieval dials rerank at dns:///citemesh-rerank:50051: its certificate names",
        ),
        (an_address_too_much, "gateway is told the address of guardrail"),
        (no_address, "retrieval is told no address of rerank"),
        (nobody_starts_it, "guardrail is started by nothing"),
    ],
)
def test_a_spoilt_manifest_is_found(
    manifests: Resources, spoil: Callable[[Resources], None], problem: str
) -> None:
    spoil(manifests)
    assert any(problem in each for each in problems(manifests))
