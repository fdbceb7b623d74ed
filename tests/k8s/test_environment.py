"""What the manifests tell a process is what its settings read, and no secret is written out."""

from __future__ import annotations

from typing import Any

import yaml

from tools.k8s import exceptions, variables
from tools.k8s.environment import Given, given, repeated, ungiven, unread

READ = {
    "everywhere": ["OTEL_SDK_DISABLED"],
    "components": {
        "embedding_bulk": {
            "settings": ["CITEMESH_EMBEDDING_WORKERS"],
            "secret": {"COHERE_API_KEY": ["COHERE_API_KEY", "CO_API_KEY"]},
            "libraries": ["CITEMESH_WEIGHTS_DIR"],
        }
    },
}
REFERENCE = Given(reference="secretKeyRef")


def test_the_list_in_the_chart_is_what_the_settings_read() -> None:
    assert yaml.safe_load(variables.LIST.read_text()) == variables.listed()


def test_the_manifests_give_only_what_is_read(manifests: list[dict[str, Any]]) -> None:
    excepted = exceptions.load().environment
    environment = given(manifests)
    assert set(environment) == {name.replace("_", "-") for name in variables.listed()["components"]}
    assert list(unread(environment, variables.listed(), excepted, set())) == []


def test_a_reference_is_told_from_plain_text(manifests: list[dict[str, Any]]) -> None:
    gateway = given(manifests)["gateway"]
    assert gateway["CITEMESH_GATEWAY_DATABASE_URL"] == REFERENCE
    assert gateway["CITEMESH_RETRIEVAL_ADDRESS"].value.startswith("dns:///")


def test_a_variable_that_a_container_is_given_twice_is_reported(
    manifests: list[dict[str, Any]],
) -> None:
    assert list(repeated(manifests)) == []
    for resource in manifests:
        if resource["kind"] == "Deployment" and "gateway" in resource["metadata"]["name"]:
            resource["spec"]["template"]["spec"]["containers"][0]["env"] += [
                {"name": "POD_NAME", "value": "another"}
            ]
    assert list(repeated(manifests)) == ["citemesh-gateway is given POD_NAME 2 times"]


def found(excepted: dict[str, str], **environment: Given) -> tuple[list[str], set[str]]:
    used: set[str] = set()
    return list(unread({"embedding-bulk": environment}, READ, excepted, used)), used


def test_a_variable_that_nobody_reads_is_reported_unless_it_is_excepted() -> None:
    misspelt = {"CITEMESH_EMBEDDING_WORKER": Given("2"), "SSL_CERT_FILE": Given("/ca.crt")}
    assert found({}, **misspelt)[0] == [
        "embedding_bulk is given CITEMESH_EMBEDDING_WORKER, which it does not read",
        "embedding_bulk is given SSL_CERT_FILE, which it does not read",
    ]
    problems, used = found({"SSL_CERT_FILE": "OpenSSL reads it."}, **misspelt)
    assert len(problems) == 1
    assert used == {"SSL_CERT_FILE"}


def test_names_of_libraries_and_of_telemetry_are_read() -> None:
    assert found({}, CITEMESH_WEIGHTS_DIR=Given("/weights"), OTEL_SDK_DISABLED=Given("true"))[
        0
    ] == ([])


def test_a_secret_in_plain_text_is_reported_by_any_of_its_names() -> None:
    assert found({}, COHERE_API_KEY=REFERENCE) == ([], set())
    assert found({}, CO_API_KEY=Given("co-1"))[0] == [
        "embedding_bulk is given the secret CO_API_KEY in plain text"
    ]


def test_a_setting_that_no_rendering_gives_is_reported_unless_it_is_excepted() -> None:
    one = {"embedding-bulk": {"CITEMESH_EMBEDDING_WORKERS": Given("2")}}
    other = {"embedding-bulk": {"CO_API_KEY": REFERENCE}}
    assert list(ungiven([one, other], READ, {}, set())) == []
    assert list(ungiven([one], READ, {}, set())) == [
        "embedding_bulk reads COHERE_API_KEY, which the chart cannot give it"
    ]
    used: set[str] = set()
    assert list(ungiven([one], READ, {"COHERE_API_KEY": "Not in a cluster."}, used)) == []
    assert used == {"COHERE_API_KEY"}
