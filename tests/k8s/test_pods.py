"""Containers of `make pods` are what the manifests say, or are refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tools.pods.callers import FACTS
from tools.pods.deployment import surge
from tools.pods.derive import Pod, Probe, Untranslated, pod, quantity
from tools.pods.resources import Dangling, Resources

NAME = "citemesh-retrieval-0"


def secret(name: str, **content: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"kind": "Secret", "metadata": {"name": name}, "data": encoded}


@pytest.fixture
def resources(manifests: list[dict[str, Any]]) -> Resources:
    """What is applied, and every Secret that it refers to."""
    urls = {f"{name}-url": f"postgresql://{name}" for name in ("retrieval", "gateway")}
    return Resources.of(
        [
            *manifests,
            secret("citemesh-postgres", **urls),
            secret("citemesh-opensearch", user="search", password="pass"),
            secret("citemesh-keyring", **{"keyring.json": "{}"}),
            secret("citemesh-signing-retrieval", **{"signing.key": "key"}),
        ]
    )


@pytest.fixture
def template(resources: Resources) -> dict[str, Any]:
    """The pod template of retrieval; a test may spoil it."""
    found: dict[str, Any] = resources.by_name["Deployment", "citemesh-retrieval"]["spec"][
        "template"
    ]
    return found


@pytest.fixture
def derived(template: dict[str, Any], resources: Resources) -> Pod:
    return pod(template, resources, NAME, "citemesh")


def container(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["spec"]["containers"][0]
    return found


def test_a_container_has_the_account_and_the_rights_of_its_pod(derived: Pod) -> None:
    assert {
        "--user=10001:10001",
        "--group-add=10001",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--read-only-tmpfs=false",
    } <= set(derived.arguments)


def test_a_container_has_the_limits_of_its_pod(
    template: dict[str, Any], resources: Resources
) -> None:
    container(template)["resources"] = {
        "limits": {"memory": "1Gi", "cpu": "1500m"},
        "requests": {"cpu": "250m", "memory": "1Mi"},
    }
    arguments = pod(template, resources, NAME, "citemesh").arguments
    assert {"--memory=1073741824", "--cpus=1.5", "--cpu-shares=256"} <= set(arguments)


def test_an_environment_is_the_config_maps_and_the_secrets(
    derived: Pod, resources: Resources
) -> None:
    configured = resources.content("ConfigMap", "citemesh-retrieval")
    assert configured.items() <= derived.environment.items()
    assert derived.environment["CITEMESH_RETRIEVAL_DATABASE_URL"] == "postgresql://retrieval"
    assert derived.environment["CITEMESH_OPENSEARCH_USER"] == "search"
    assert derived.environment["OTEL_RESOURCE_ATTRIBUTES"] == (
        f"k8s.pod.name={NAME},k8s.namespace.name=citemesh"
    )


def test_an_optional_secret_may_be_absent_and_another_may_not(
    template: dict[str, Any], resources: Resources
) -> None:
    reference = {"name": "nobody", "key": "x", "optional": True}
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": reference}}
    container(template)["env"].append(variable)
    assert "KEY" not in pod(template, resources, NAME, "citemesh").environment
    reference["optional"] = False
    with pytest.raises(Dangling, match="Secret nobody"):
        pod(template, resources, NAME, "citemesh")


def test_secrets_lie_in_files_with_the_mode_of_their_volume(derived: Pod) -> None:
    signing = next(v for v in derived.volumes if v.path == "/etc/citemesh/signing")
    assert (signing.files, signing.mode, signing.read_only) == ({"signing.key": "key"}, 0o440, True)
    temporary = next(v for v in derived.volumes if v.path == "/tmp")
    assert (temporary.files, temporary.read_only) == ({}, False)


def test_probes_ask_what_the_manifest_says(derived: Pod, resources: Resources) -> None:
    assert derived.readiness == Probe(
        port=50051,
        service="citemesh.retrieval.v1.RetrievalService",
        period_seconds=5,
        timeout_seconds=3,
        failure_threshold=2,
    )
    assert derived.startup is not None
    assert derived.startup.service == ""


def test_a_named_port_is_the_containers(template: dict[str, Any], resources: Resources) -> None:
    container(template)["readinessProbe"] = {"httpGet": {"path": "/readyz", "port": "metrics"}}
    readiness = pod(template, resources, NAME, "citemesh").readiness
    assert readiness == Probe(port=9464, path="/readyz")


def test_a_pod_ends_as_its_manifest_says(template: dict[str, Any], resources: Resources) -> None:
    container(template)["lifecycle"] = {"preStop": {"sleep": {"seconds": 10}}}
    derived = pod(template, resources, NAME, "citemesh")
    assert (derived.pause_seconds, derived.grace_seconds) == (
        10,
        template["spec"]["terminationGracePeriodSeconds"],
    )


@pytest.mark.parametrize(
    ("where", "added"),
    [
        ("spec", {"hostNetwork": True}),
        ("spec", {"initContainers": []}),
        ("container", {"workingDir": "/"}),
        ("container", {"args": ["--help"]}),
        ("container", {"lifecycle": {"postStart": {}}}),
        ("container", {"securityContext": {"privileged": True}}),
        ("container", {"resources": {"limits": {"nvidia.com/gpu": 1}}}),
        ("container", {"livenessProbe": {"exec": {"command": ["true"]}}}),
    ],
)
def test_what_is_not_carried_over_is_refused(
    where: str, added: dict[str, Any], template: dict[str, Any], resources: Resources
) -> None:
    (template["spec"] if where == "spec" else container(template)).update(added)
    with pytest.raises(Untranslated):
        pod(template, resources, NAME, "citemesh")


@pytest.mark.parametrize("user", [None, 0])
def test_a_pod_that_may_be_root_is_refused(
    user: int | None, template: dict[str, Any], resources: Resources
) -> None:
    template["spec"]["securityContext"]["runAsUser"] = user
    with pytest.raises(Untranslated, match="root"):
        pod(template, resources, NAME, "citemesh")


@pytest.mark.parametrize(
    ("text", "number"), [("512Mi", 2**29), ("250m", 0.25), (2, 2), ("1.5", 1.5), ("3G", 3e9)]
)
def test_quantities_are_numbers(text: Any, number: float) -> None:
    assert quantity(text) == number


def test_a_pod_is_behind_the_services_that_select_it(
    template: dict[str, Any], resources: Resources
) -> None:
    assert resources.services_of(template["metadata"]["labels"]) == ["citemesh-retrieval"]


def test_every_deployment_is_rolled_without_fewer_ready_replicas(resources: Resources) -> None:
    for deployment in resources.kind("Deployment"):
        assert surge(deployment["spec"]["strategy"]) >= 1
    with pytest.raises(Untranslated):
        surge({"type": "Recreate"})


def test_no_facts_number_is_in_anothers() -> None:
    assert len({fact.code for fact in FACTS}) == len(FACTS)
    assert all(len(fact.code) == 5 for fact in FACTS)
