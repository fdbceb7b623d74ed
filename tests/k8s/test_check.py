"""The parts of `make k8s-check` that need neither Helm nor checkov."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools.k8s import cases, exceptions, policy
from tools.k8s.policy import Finding

FINDING = Finding("CKV_K8S_11", "CPU limits should be set", "Deployment", "citemesh.gateway")


def test_a_key_that_means_nothing_is_added_at_every_place() -> None:
    values = {"a": {"b": {"c": 1}}, "d": [{"e": 1}]}
    assert list(cases.unknown_keys(values)) == [
        ("", {**values, "unheardOf": 1}),
        ("a", {"a": {"b": {"c": 1}, "unheardOf": 1}, "d": [{"e": 1}]}),
        ("a.b", {"a": {"b": {"c": 1, "unheardOf": 1}}, "d": [{"e": 1}]}),
    ]


def test_every_setting_is_given_to_its_own_component() -> None:
    read = {"components": {"rerank": {"settings": ["CITEMESH_RERANK_MODEL"]}}}
    services = cases.every_setting(read).over["services"]
    assert services == {"rerank": {"config": {"CITEMESH_RERANK_MODEL": "1"}}}


def test_an_exception_lifts_its_rule_for_its_kinds_alone() -> None:
    lifted = exceptions.Policy("CKV_K8S_11", ("Deployment",), "Only delays.")
    other = exceptions.Policy("CKV_K8S_11", ("Job",), "Only delays.")
    used: set[exceptions.Policy] = set()
    assert list(policy.left([FINDING], [lifted, other], used)) == []
    assert used == {lifted}
    assert list(policy.left([FINDING], [other], set())) == [FINDING]


def test_an_exception_needs_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "exceptions.toml"
    file.write_text('[[environment]]\nvariable = "A"\nreason = " "\n')
    monkeypatch.setattr(exceptions, "FILE", file)
    with pytest.raises(ValueError, match="without a reason"):
        exceptions.load()


def test_what_checkov_says_is_read() -> None:
    failed = {
        "check_id": FINDING.check,
        "check_name": FINDING.name,
        "resource": "Deployment.citemesh.gateway",
    }
    said = {
        "results": {"failed_checks": [failed]},
        "summary": {"passed": 5, "failed": 1, "parsing_errors": 0},
    }
    assert policy.report(said) == policy.Report(5, (FINDING,))


@pytest.mark.parametrize(
    "said",
    [
        {"passed": 0, "failed": 0, "parsing_errors": 0},
        {"summary": {"passed": 5, "failed": 0, "parsing_errors": 1}},
    ],
)
def test_a_run_that_read_nothing_or_not_everything_is_no_success(said: dict[str, object]) -> None:
    with pytest.raises(RuntimeError, match="did not read"):
        policy.report(said)


def test_checkov_sees_resources_in_the_namespace_of_the_release(tmp_path: Path) -> None:
    policy.write([{"kind": "Service", "metadata": {"name": "a"}}], tmp_path, "citemesh")
    (seen,) = yaml.safe_load_all((tmp_path / "resources.yaml").read_text())
    assert seen["metadata"] == {"name": "a", "namespace": "citemesh"}
