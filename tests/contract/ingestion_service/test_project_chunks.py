"""Chunks as large as their project chose."""

from __future__ import annotations

from citemesh.ingestion import v1
from meshkit.project import ProjectSettings
from tests.contract.ingestion_room import Ingestion, Room, text_of

READY = v1.DOCUMENT_STATE_READY


def sizes(room: Room, document: v1.Document) -> list[int]:
    chunks = room.retrieval.chunks[document.id, document.version]
    return [chunk.token_count for chunk in chunks.values()]


async def test_a_projects_chunks_are_as_large_as_it_chose_when_they_were_queued(
    room: Room, ingestion: Ingestion
) -> None:
    data = text_of(30, "leave")
    small = ingestion.caller(settings=ProjectSettings(chunk_tokens=20))
    document = (await ingestion.upload(data, caller=small)).document
    first = await ingestion.settled(document.id)
    assert max(sizes(room, first)) <= 20
    assert " ".join(room.retrieval.texts(document.id)) == data.decode()
    row = await room.version(document.id)
    assert (row["chunk_tokens"], row["chunk_overlap_tokens"]) == (20, None)
    large = ingestion.caller(settings=ProjectSettings(chunk_tokens=100, chunk_overlap_tokens=30))
    await ingestion.reprocess(document.id, large)
    second = await ingestion.settled(document.id)
    assert (second.version, second.live_version) == (2, 2)
    assert 60 < max(sizes(room, second)) <= 100
    texts = room.retrieval.texts(document.id, 2)
    assert texts[1].split(".")[0] in texts[0], "a chunk repeats the end of the one before"
    # A project that goes back to the default gets the service's own.
    await ingestion.reprocess(document.id)
    third = await ingestion.settled(document.id)
    assert 20 < max(sizes(room, third)) <= 40


async def test_a_budget_beyond_what_the_model_reads_is_cut_to_that_and_the_document_says_so(
    room: Room, ingestion: Ingestion
) -> None:
    room.embedding.limits.max_tokens_per_text = 32
    try:
        caller = ingestion.caller(settings=ProjectSettings(chunk_tokens=200))
        document = (await ingestion.upload(text_of(30, "leave"), caller=caller)).document
        ready = await ingestion.settled(document.id)
    finally:
        room.embedding.limits.max_tokens_per_text = 0
    assert ready.state == READY
    assert max(sizes(room, ready)) <= 30
    assert list(ready.warnings) == ["chunks of 30 tokens rather than 200: the model reads no more"]
