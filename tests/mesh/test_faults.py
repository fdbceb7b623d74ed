"""Bad input and dying processes: a clear answer each time, and the mesh goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mesh.conftest import RunningMesh, wait_until
from tests.mesh.documents import ingest, settled, upload

SAMPLES = Path(__file__).parents[1] / "samples"


KILLED: set[str] = set()
"""Services a test killed on purpose."""


@pytest.fixture(autouse=True)
def the_mesh_goes_on(mesh: RunningMesh) -> Iterator[None]:
    """After whatever a test did, the mesh still answers and nothing restarted unasked."""
    before = {child.name: child.restarts for child in mesh.state.children}
    yield
    # What it says is a second old, and the way to a process that was killed is tried again.
    wait_until(lambda: mesh.http.get("/readyz").status_code == 200, 10, "the mesh is ready")
    after = {child.name: child.restarts for child in mesh.state.children}
    assert {name for name in after if after[name] > before[name]} <= KILLED


def problem(reply: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Checks that a reply is a problem a person can act on."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = reply.json()
    assert body["reason"] == reason
    assert body["detail"].rstrip().endswith(".")
    assert body["request_id"] == reply.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("name", "content", "status", "reason"),
    [
        ("empty.pdf", b"", 400, "FILE_EMPTY"),
        ("noise.bin", bytes(range(256)) * 40, 415, "FILE_TYPE_UNSUPPORTED"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_at_once(
    mesh: RunningMesh, name: str, content: bytes, status: int, reason: str
) -> None:
    problem(mesh.http.post("/v1/documents", files={"file": (name, content)}), status, reason)


def test_a_file_of_one_byte_ends_in_a_state_with_a_reason_or_is_read(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_bytes(b"x")
    document = settled(mesh.http, upload(mesh.http, tmp_path / "one.txt")["id"])
    assert document["state"] == "ready" or document["error"]["reason"] == "NO_TEXT"


def test_a_truncated_pdf_fails_with_a_reason(mesh: RunningMesh, tmp_path: Path) -> None:
    whole = (SAMPLES / "employee-handbook.pdf").read_bytes()
    (tmp_path / "cut.pdf").write_bytes(whole[: len(whole) // 3])
    document = settled(mesh.http, upload(mesh.http, tmp_path / "cut.pdf")["id"])
    assert document["state"] == "failed"
    assert document["error"]["reason"] in ("FILE_CORRUPT", "NO_TEXT")
    assert document["error"]["detail"].endswith(".")


def test_an_encrypted_pdf_fails_with_a_reason(mesh: RunningMesh) -> None:
    path = (
        Path(__file__).parents[3]
        / "shared/data/messy/sample-files__libreoffice-writer-password.pdf"
    )
    if not path.exists():
        pytest.skip("the shared data is not here: no encrypted PDF to try")
    document = settled(mesh.http, upload(mesh.http, path)["id"])
    assert document["state"] == "failed"
    assert document["error"]["reason"] == "FILE_ENCRYPTED"


def test_text_that_is_not_utf8_is_read_as_its_author_wrote_it(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    (tmp_path / "umlaut.txt").write_bytes(
        "Die Brücke über die Wümme wird gesperrt.".encode("cp1252")
    )
    document = ingest(mesh.http, tmp_path / "umlaut.txt")
    chunks = mesh.http.get(f"/v1/documents/{document['id']}/chunks").json()["chunks"]
    assert "Brücke über die Wümme" in chunks[0]["text"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\x\\plan.txt", "plan.txt"),
        ("price\u202etxt.exe\u2066.txt", "pricetxt.exe.txt"),
        ("con.txt", "_con.txt"),
    ],
    ids=["a path", "another system's path", "turned around", "a device"],
)
def test_a_name_that_pretends_is_shown_as_what_it_is(
    mesh: RunningMesh, name: str, title: str
) -> None:
    content = f"The name of this file is its only oddity: {title}.".encode()
    reply = mesh.http.post("/v1/documents", files={"file": (name, content)})
    assert reply.status_code == 202, reply.text
    document = settled(mesh.http, reply.json()["id"])
    assert (document["state"], document["title"]) == ("ready", title)


def test_an_upload_of_two_gigabytes_is_refused_before_it_is_sent(mesh: RunningMesh) -> None:
    connection = HTTPConnection(mesh.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v1/documents")
    connection.putheader("Authorization", f"Bearer {mesh.api_key}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2 * 1024**3))
    connection.endheaders()
    reply = connection.getresponse()
    refused = json.loads(reply.read())
    connection.close()
    assert (reply.status, refused["reason"]) == (413, "FILE_TOO_LARGE")
    assert refused["request_id"]


def test_half_an_upload_leaves_nothing_behind(mesh: RunningMesh) -> None:
    before = {d["id"] for d in mesh.http.get("/v1/documents").json()["documents"]}
    host, port = mesh.url.removeprefix("http://").split(":")
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="half.txt"\r\n\r\n'
    body = part + b"The first half of a sentence " * 5000
    head = (
        f"POST /v1/documents HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {mesh.api_key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body) + 9999}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + body)

    def aborted() -> bool:
        lines = [line for line in mesh.log("ingestion").splitlines() if "UploadDocument" in line]
        return any("UPLOAD_INCOMPLETE" in line or "CANCELLED" in line for line in lines)

    wait_until(aborted, 10, "ingestion noticed that the upload broke off")
    after = {d["id"] for d in mesh.http.get("/v1/documents").json()["documents"]}
    assert after == before


def test_a_wrong_key_is_refused(mesh: RunningMesh) -> None:
    headers = {"Authorization": "Bearer cmk_wrong"}
    problem(mesh.http.get("/v1/documents", headers=headers), 401, "KEY_INVALID")


def test_a_body_that_is_not_json_is_refused(mesh: RunningMesh) -> None:
    headers = {"Content-Type": "application/json"}
    reply = mesh.http.post("/v1/search", content=b"query=hello", headers=headers)
    problem(reply, 400, "BODY_NOT_JSON")


def test_an_unknown_field_is_named(mesh: RunningMesh) -> None:
    reply = mesh.http.post("/v1/search", json={"query": "x", "top_kk": 5})
    assert "top_kk" in problem(reply, 400, "FIELD_UNKNOWN")["detail"]


@pytest.mark.parametrize("path", ["/v1/search", "/v1/answers"])
def test_a_question_of_a_hundred_thousand_characters_is_refused(
    mesh: RunningMesh, path: str
) -> None:
    field = "query" if path == "/v1/search" else "question"
    reply = mesh.http.post(path, json={field: "why " * 25_000})
    assert reply.status_code in (400, 413)
    assert field in reply.json()["detail"] or reply.json()["reason"] == "BODY_TOO_LARGE"
    assert reply.json()["request_id"]


def test_an_unknown_path_is_a_problem_too(mesh: RunningMesh) -> None:
    problem(mesh.http.get("/v1/nothing"), 404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    "name", ["guardrail", "embedding", "rerank", "retrieval", "ingestion", "generation", "gateway"]
)
def test_a_service_killed_with_minus_nine_is_back_within_five_seconds(
    mesh: RunningMesh, name: str, tmp_path: Path
) -> None:
    KILLED.add(name)
    path = tmp_path / f"kept-{name}.txt"
    path.write_text(f"This note was acknowledged before {name} died, and tells of a zeppelin.\n")
    document = upload(mesh.http, path)
    mesh.kill_and_wait_until_back(name, within=5.0)
    wait_until(lambda: ready(mesh), 10, "the gateway sees every service again")
    assert settled(mesh.http, document["id"])["state"] == "ready"
    body = {"query": f"{name} died zeppelin", "filter": {"document_ids": [document["id"]]}}
    found = mesh.http.post("/v1/search", json=body).raise_for_status().json()
    assert [hit["document_id"] for hit in found["hits"]] == [document["id"]]


def ready(mesh: RunningMesh) -> bool:
    try:
        return mesh.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_no_key_and_no_text_is_in_any_log(mesh: RunningMesh, tmp_path: Path) -> None:
    planted = "Zanzibar-Quokka-7731"
    (tmp_path / "planted.txt").write_text(f"The word of the day is {planted}.\n")
    ingest(mesh.http, tmp_path / "planted.txt")
    mesh.http.post("/v1/search", json={"query": planted}).raise_for_status()
    mesh.http.post("/v1/answers", json={"question": f"What is {planted}?"}).raise_for_status()
    mesh.http.post("/v1/search", json={"query": planted, planted: 1})
    secrets = [planted, mesh.api_key, *database_passwords(mesh)]
    for path in [*mesh.data.logs.glob("*"), *mesh.data.traces.glob("*")]:
        text = path.read_text(errors="replace")
        for secret in secrets:
            assert secret not in text, f"{path.name} holds a secret"


def database_passwords(mesh: RunningMesh) -> list[str]:
    found: list[str] = []
    for path in mesh.data.postgres.rglob("*.json"):
        content = json.loads(path.read_text())
        passwords = content.get("passwords", {}) if isinstance(content, dict) else {}
        found += [value for value in passwords.values() if len(value) > 8]
    return found
