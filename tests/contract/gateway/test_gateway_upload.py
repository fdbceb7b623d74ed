"""A file goes from the form to ingestion whole, or not at all, and never through memory."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit.errors import Unsupported

BOUNDARY = "simple-boundary"
TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, value: bytes | str, file_name: str | None = None) -> bytes:
    named = f'; filename="{file_name}"' if file_name is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
FIELDS = [
    part("title", "Ein Täst"),
    part("labels", json.dumps({"year": "2024"})),
    part("allow", json.dumps(["group:hr"])),
]
CONTENT = bytes(range(256)) * 4000
FILE = part("file", CONTENT, "täst.pdf")


@pytest.mark.parametrize(
    "form",
    [
        [*FIELDS, FILE],
        [FILE, *FIELDS],
        [FIELDS[0], FILE, *FIELDS[1:]],
    ],
    ids=["fields first", "file first", "file between"],
)
@pytest.mark.parametrize("memory", [0, 10**7], ids=["on disk", "in memory"])
async def test_a_form_arrives_whole_in_any_order(
    start_gateway: Any, form: list[bytes], memory: int
) -> None:
    async with start_gateway(spool_memory_bytes=memory) as gateway:
        async with gateway.client(await gateway.key("write"), **TYPE) as client:
            response = await client.post("/v1/documents", content=b"".join(form) + END)
        assert response.status_code == 202, response.text
        document = response.json()
        assert document["state"] == "queued"
        assert response.headers["location"] == f"/v1/documents/{document['id']}"
        (sent,) = gateway.services.uploads
    assert sent.content == CONTENT
    assert sent.ended
    assert sent.start.metadata.title == "Ein Täst"
    assert sent.start.metadata.file_name == "täst.pdf"
    assert dict(sent.start.metadata.labels) == {"year": "2024"}
    assert list(sent.start.metadata.allow) == ["group:hr"]
    assert sent.largest <= 1024 * 1024


async def test_a_file_alone_and_an_empty_file_are_passed_on(gateway: Any) -> None:
    async with gateway.client(await gateway.key("write")) as client:
        for content in (b"x", b""):
            response = await client.post("/v1/documents", files={"file": ("a.txt", content)})
            assert response.status_code == 202
    assert [upload.size for upload in gateway.services.uploads] == [1, 0]
    assert all(upload.ended for upload in gateway.services.uploads)


async def test_a_new_version_names_its_document(gateway: Any) -> None:
    async with gateway.client(await gateway.key("write")) as client:
        response = await client.put("/v1/documents/doc_7", files={"file": ("a.txt", b"x")})
    assert response.json()["id"] == "doc_7"
    assert gateway.services.uploads[0].start.document_id == "doc_7"


async def test_the_idempotency_key_is_what_ingestion_deduplicates_by(gateway: Any) -> None:
    async with gateway.client(await gateway.key("write")) as client:
        for headers in ({"Idempotency-Key": "my-key-0001"}, {}, {}):
            await client.post("/v1/documents", files={"file": ("a", b"x")}, headers=headers)
        refused = await client.post(
            "/v1/documents", files={"file": ("a", b"x")}, headers={"Idempotency-Key": "short"}
        )
    ids = [upload.start.request_id for upload in gateway.services.uploads]
    assert ids[0] == "my-key-0001"
    assert len(set(ids)) == 3
    assert refused.json()["reason"] == "IDEMPOTENCY_KEY_INVALID"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ([*FIELDS], "FILE_MISSING"),
        ([FILE, FILE], "FIELD_INVALID"),
        ([FILE, part("colour", "red")], "FIELD_UNKNOWN"),
        ([FIELDS[0], FIELDS[0], FILE], "FIELD_INVALID"),
        ([FILE, part("labels", "{")], "FIELD_INVALID"),
        ([FILE, part("labels", '{"a": 1}')], "FIELD_INVALID"),
        ([FILE, part("allow", '"all"')], "FIELD_INVALID"),
        ([FILE, part("title", b"\xff")], "FIELD_INVALID"),
        ([FILE, part("title", "x" * 100_000)], "FIELD_TOO_LONG"),
        ([b"this is no form"], "FORM_INVALID"),
    ],
)
async def test_a_wrong_form_is_refused_and_nothing_is_stored(
    gateway: Any, form: list[bytes], reason: str
) -> None:
    async with gateway.client(await gateway.key("write"), **TYPE) as client:
        response = await client.post("/v1/documents", content=b"".join(form) + END)
    assert response.status_code == 400, response.text
    assert response.json()["reason"] == reason
    assert not any(upload.ended for upload in gateway.services.uploads)


async def test_a_body_that_is_no_form_is_refused(gateway: Any) -> None:
    async with gateway.client(await gateway.key("write")) as client:
        response = await client.post("/v1/documents", json={"file": "x"})
    assert response.json()["reason"] == "FORM_INVALID"


@pytest.mark.parametrize("form", [[*FIELDS, FILE], [FILE]], ids=["streamed", "spooled"])
async def test_a_form_that_breaks_off_is_never_taken_for_the_whole(
    gateway: Any, form: list[bytes]
) -> None:
    half = b"".join(form)[:-5_000]
    async with gateway.client(await gateway.key("write"), **TYPE) as client:
        response = await client.post("/v1/documents", content=half)
    assert response.json()["reason"] == "FORM_INCOMPLETE"
    assert not any(upload.ended for upload in gateway.services.uploads)


async def test_a_client_that_goes_away_leaves_no_half_file(gateway: Any) -> None:
    head = b"".join(FIELDS) + FILE[:300_000]
    key = await gateway.key("write")
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {TYPE['Content-Type']}\r\nContent-Length: 5000000\r\n\r\n".encode()
        + head
    )
    await writer.drain()
    async with asyncio.timeout(10):
        await gateway.services.upload_under_way.wait()
        writer.close()
        await gateway.services.uploads[0].closed.wait()
    assert not gateway.services.uploads[0].ended


async def test_a_file_that_announces_too_much_is_refused_before_it_is_sent(
    start_gateway: Any,
) -> None:
    async with start_gateway(max_upload_bytes=1_000_000) as gateway:
        key = await gateway.key("write")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        # As curl does: nothing of the file is sent until the server says it wants it.
        writer.write(
            f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: {TYPE['Content-Type']}\r\nContent-Length: 2000000000\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"FILE_TOO_LARGE" in answer
    assert b"1.0 MB" in answer


@pytest.mark.parametrize("announce", [True, False], ids=["announced", "chunked"])
async def test_a_file_of_2_gb_is_refused_and_memory_stays_flat(
    start_gateway: Any, announce: bool
) -> None:
    pieces, piece = 2_000, b"\0" * 1_000_000
    head = b"".join(FIELDS) + part("file", b"", "big.bin")[:-2]
    tail = b"\r\n" + END
    size = len(head) + pieces * len(piece) + len(tail)

    async def body() -> AsyncIterator[bytes]:
        yield head
        for _ in range(pieces):
            yield piece
        yield tail

    async with start_gateway(max_upload_bytes=60_000_000) as gateway:
        gateway.services.keep_content = False
        headers = {**TYPE, **({"Content-Length": str(size)} if announce else {})}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with gateway.client(await gateway.key("write"), **headers) as client:
            response = await client.post("/v1/documents", content=body())
        assert response.status_code == 413
        assert response.json()["reason"] == "FILE_TOO_LARGE"
        assert "60.0 MB" in response.json()["detail"]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 50_000, f"{grown} kB"
        assert not any(upload.ended for upload in gateway.services.uploads)


async def test_what_ingestion_answers_in_the_middle_of_a_file_reaches_the_caller(
    gateway: Any,
) -> None:
    async def refuse(_: Any) -> None:
        raise Unsupported("FILE_TYPE_UNSUPPORTED", "Files of this type are not read.")

    gateway.services.replies["UploadDocument"] = refuse
    body = b"".join(FIELDS) + part("file", b"\0" * 20_000_000, "a.exe") + END
    async with gateway.client(await gateway.key("write"), **TYPE) as client:
        response = await client.post("/v1/documents", content=body)
    assert response.status_code == 415
    assert response.json()["reason"] == "FILE_TYPE_UNSUPPORTED"
