"""The Secrets that `tools.k8s.secrets` makes are those that the chart refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshkit.identity import Signer, Verifier
from tools.k8s import secrets

Resource = dict[str, Any]


def mounted(resources: list[Resource]) -> set[str]:
    """Names of the Secrets that pods mount."""
    return {
        volume["secret"]["secretName"]
        for resource in resources
        if resource["kind"] == "Deployment"
        for volume in resource["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }


def referred(resources: list[Resource], name: str) -> set[str]:
    """Keys of a Secret that variables of containers are taken from."""
    return {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for resource in resources
        if resource["kind"] in {"Deployment", "Job"}
        for container in resource["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
        if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == name
    }


def test_pods_mount_the_keys_that_are_made(manifests: list[Resource]) -> None:
    made = {each["metadata"]["name"] for each in secrets.keys({})}
    assert made == mounted(manifests)


def test_a_context_signed_with_a_made_key_is_verified_by_the_made_keyring(tmp_path: Path) -> None:
    made = {each["metadata"]["name"]: each["stringData"] for each in secrets.keys({})}
    ring = tmp_path / "keyring.json"
    ring.write_text(made.pop("citemesh-keyring")["keyring.json"])
    for name, content in made.items():
        file = tmp_path / name
        file.write_text(content["signing.key"])
        signer = Signer.load(file)
        assert name == f"citemesh-signing-{signer.issuer}"
        context = signer.sign(
            project_id="prj_1",
            principals=[],
            scopes=["read"],
            subject="somebody",
            request_id="req_1",
        )
        assert Verifier.load(ring).verify(context.token).issuer == signer.issuer


def test_the_bundled_postgres_has_a_url_for_everyone_who_is_given_one(
    manifests: list[Resource],
) -> None:
    made = secrets.postgres("citemesh")
    assert set(made["stringData"]) >= referred(manifests, "citemesh-postgres")
    # Profiles for production refuse it by this label.
    assert made["metadata"]["labels"] == {"citemesh.io/made-for": "development"}
