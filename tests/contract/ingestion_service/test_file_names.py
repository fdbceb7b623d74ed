"""Names that were made to deceive: what is stored, told and indexed of them."""

from __future__ import annotations

import pytest

from citemesh.ingestion import v1
from meshkit.errors import InvalidInput
from tests.contract.ingestion_room import Ingestion, Room, text_of

READY = v1.DOCUMENT_STATE_READY


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("../../../etc/cron.d/job.txt", "job.txt"),
        ("..\\..\\boot.ini.txt", "boot.ini.txt"),
        ("report\x00.txt", "report.txt"),
        ("a\r\nX-Evil: 1\x1b[2J.txt", "a X-Evil: 1[2J.txt"),
        ("invoice_\u202etxt.exe", "invoice_txt.exe"),
        ("nul.txt", "_nul.txt"),
        ("", "document"),
        ("n" * 600 + ".txt", "n" * 251 + ".txt"),
    ],
    ids=["up", "windows", "nul", "control", "bidi", "device", "empty", "long"],
)
async def test_a_file_is_stored_told_and_cited_under_a_name_that_is_what_it_looks_like(
    room: Room, ingestion: Ingestion, sent: str, stored: str
) -> None:
    document = (await ingestion.upload(text_of(3), sent)).document
    assert (document.file_name, document.title) == (stored, stored)
    ready = await ingestion.settled(document.id)
    assert (ready.state, ready.media_type) == (READY, "text/plain")
    assert ready.title == stored
    # Citations show the title that retrieval was given.
    activation = room.retrieval.activations[-1]
    assert (activation.document.document_id, activation.title) == (document.id, stored)
    # The bytes lie under an id of ours, inside of the store.
    (file,) = (room.blobs / ingestion.project_id).iterdir()
    assert file.name.startswith("blob_")


async def test_a_second_extension_is_shown_and_not_believed(ingestion: Ingestion) -> None:
    document = (await ingestion.upload(text_of(3), "invoice.pdf.html.exe")).document
    assert (document.file_name, document.media_type) == ("invoice.pdf.html.exe", "text/plain")
    page = b"<!doctype html><html><body><h1>Terms</h1><p>Thirty days net.</p></body></html>"
    document = (await ingestion.upload(page, "terms.txt")).document
    assert document.media_type == "text/html"


async def test_a_title_is_one_line_that_reads_as_it_is_written(
    room: Room, ingestion: Ingestion
) -> None:
    title = "Rules\u202e\n of\x07 the  house"
    document = (await ingestion.upload(text_of(3), "r.txt", title=title)).document
    assert document.title == "Rules of the house"
    page = "<title>Rules\u2066 and\nregulations</title><p>" + text_of(3).decode()
    document = (await ingestion.upload(page.encode(), "r.html")).document
    assert (await ingestion.settled(document.id)).title == "Rules and regulations"


async def test_a_name_beyond_all_measure_is_refused_by_its_field(ingestion: Ingestion) -> None:
    with pytest.raises(InvalidInput) as refused:
        await ingestion.upload(text_of(3), "x" * 1025)
    assert "file_name" in str(refused.value.fields)
