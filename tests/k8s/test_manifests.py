"""What an operator relies on, read from the manifests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from meshkit.components import COMPONENTS
from meshkit.telemetry.schema import schema
from tools.k8s.environment import given
from tools.k8s.facts import CHART
from tools.k8s.graph import kebab

Resource = dict[str, Any]
NAMES = [kebab(component.name) for component in COMPONENTS]


@pytest.fixture(params=NAMES)
def deployment(request: pytest.FixtureRequest, manifests: list[Resource]) -> Resource:
    return one(manifests, "Deployment", request.param)


def one(manifests: list[Resource], kind: str, component: str) -> Resource:
    (found,) = some(manifests, kind, component)
    return found


def some(manifests: list[Resource], kind: str, component: str) -> Iterator[Resource]:
    return (
        each
        for each in manifests
        if each["kind"] == kind and each["metadata"]["name"] == f"citemesh-{component}"
    )


def name_of(deployment: Resource) -> str:
    return str(deployment["metadata"]["labels"]["app.kubernetes.io/component"])


def pod(deployment: Resource) -> Resource:
    found: Resource = deployment["spec"]["template"]["spec"]
    return found


def container(deployment: Resource) -> Resource:
    (found,) = pod(deployment)["containers"]
    assert isinstance(found, dict)
    return found


def test_what_selects_pods_never_changes(deployment: Resource) -> None:
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector == {
        "app.kubernetes.io/name": "citemesh",
        "app.kubernetes.io/instance": "citemesh",
        "app.kubernetes.io/component": name_of(deployment),
    }
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == selector, "a label with a version would restart pods that did not change"


def test_another_configuration_is_another_pod(deployment: Resource) -> None:
    assert "checksum/configuration" in deployment["spec"]["template"]["metadata"]["annotations"]


def test_replicas_are_set_by_an_autoscaler_or_by_the_deployment(
    deployment: Resource, manifests: list[Resource]
) -> None:
    scaled = list(some(manifests, "HorizontalPodAutoscaler", name_of(deployment)))
    assert ("replicas" in deployment["spec"]) == (not scaled)
    least = scaled[0]["spec"]["minReplicas"] if scaled else deployment["spec"]["replicas"]
    assert least >= 2


def test_a_rollout_takes_no_replica_away_and_an_eviction_one_at_most(
    deployment: Resource, manifests: list[Resource]
) -> None:
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = one(manifests, "PodDisruptionBudget", name_of(deployment))["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["spec"]["selector"]


def test_a_pod_has_the_time_to_end_what_it_began(
    deployment: Resource, manifests: list[Resource]
) -> None:
    told = given(manifests)
    own = told[name_of(deployment)]
    drain = float(own["CITEMESH_DRAIN_SECONDS"].value)
    notice = 0.0
    if name_of(deployment) == "gateway":
        notice = float(own["CITEMESH_GATEWAY_NOTICE_SECONDS"].value)
    assert pod(deployment)["terminationGracePeriodSeconds"] > drain + notice
    if name_of(deployment) in ("gateway", "generation"):
        assert drain > float(told["gateway"]["CITEMESH_GATEWAY_ANSWER_SECONDS"].value)


def test_a_service_that_is_away_takes_no_gateway_out(manifests: list[Resource]) -> None:
    probe = container(one(manifests, "Deployment", "gateway"))["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz/gateway"


def test_probes_ask_the_process_for_life_and_its_service_for_readiness(
    deployment: Resource,
) -> None:
    found = container(deployment)
    if name_of(deployment) == "gateway":
        return
    names = {kebab(component.name): component.grpc_service for component in COMPONENTS}
    assert found["readinessProbe"]["grpc"]["service"] == names[name_of(deployment)]
    for probe in ("startupProbe", "livenessProbe"):
        assert "service" not in found[probe]["grpc"], "a wait for the database is no reason to kill"
    grace = found["startupProbe"]["periodSeconds"] * found["startupProbe"]["failureThreshold"]
    assert grace >= 300


def test_a_pod_may_do_nothing_that_it_need_not(deployment: Resource) -> None:
    assert pod(deployment)["automountServiceAccountToken"] is False
    assert pod(deployment)["securityContext"]["runAsNonRoot"] is True
    assert pod(deployment)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_kubernetes_sets_no_variable_of_its_own(deployment: Resource) -> None:
    assert pod(deployment)["enableServiceLinks"] is False


def test_every_pod_says_what_it_needs(deployment: Resource) -> None:
    resources = container(deployment)["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert "memory" in resources["limits"]


def test_autoscalers_ask_for_metrics_that_are_served() -> None:
    served = {name for metric in schema().metrics.values() for name in metric.series}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    asked = {
        own["autoscaling"]["external"]["metric"]
        for own in values["services"].values()
        if "external" in own["autoscaling"]
    }
    assert asked
    assert asked <= served
