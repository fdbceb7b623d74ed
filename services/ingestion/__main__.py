"""python -m services.ingestion: the ingestion service until SIGTERM."""

from __future__ import annotations

import asyncio
import socket
from functools import lru_cache

from citemesh.embedding import v1 as embedding_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.ingestion import v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit.logging import logger
from meshkit.process import Process, run
from services.ingestion import tokens
from services.ingestion.attempt import AttemptPolicy, Tools
from services.ingestion.blobs import S3Access, open_store
from services.ingestion.catalogue import Catalogue
from services.ingestion.changes import Changes
from services.ingestion.chunking import ChunkingPolicy, Tokenize
from services.ingestion.extraction import ocr
from services.ingestion.extraction.ocr import OcrPolicy
from services.ingestion.extraction.runner import Limits
from services.ingestion.measures import watch_backlog
from services.ingestion.neighbours import Neighbours
from services.ingestion.pacing import Paces
from services.ingestion.queue import Queue
from services.ingestion.removal import Removal, keep_house
from services.ingestion.servicer import IngestionServicer, Parts
from services.ingestion.settings import IngestionSettings
from services.ingestion.worker import SPARE, Worker, WorkerPolicy

log = logger(__name__)

_WATCHED_SECONDS = 1.0
_DEFAULT_SPACE = "local/bge-small-en-v1.5@384"


@lru_cache(maxsize=8)
def _tokenizer(space: str) -> Tokenize:
    return tokens.for_space(space).offsets


def _name_what_is_missing(policy: OcrPolicy) -> None:
    """One line when scans cannot be read, or not in every language that was asked for."""
    missing = ocr.missing(policy)
    if missing.program:
        log.warning("scans and images cannot be read", remedy=ocr.INSTALL)
    elif missing.languages:
        names = [f"tesseract-ocr-{name.replace('_', '-')}" for name in missing.languages]
        log.warning(
            "scans are not read in every language of CITEMESH_INGESTION_OCR_LANGUAGES",
            remedy=f"on Debian: apt install {' '.join(names)}",
        )


async def start(process: Process[IngestionSettings]) -> None:
    """Builds the service: the RPCs, and the worker beside them."""
    settings = process.settings
    access = S3Access(settings.s3_endpoint_url, settings.s3_region, settings.spool_directory)
    blobs = await process.stack.enter_async_context(open_store(settings.blob_url, access))
    # Now rather than with the first document: a missing tokenizer must stop the start.
    await asyncio.to_thread(_tokenizer, _DEFAULT_SPACE)
    recognition = OcrPolicy(
        tuple(settings.ocr_languages.split(",")), settings.ocr_page_seconds, settings.ocr_most_pages
    )
    await asyncio.to_thread(_name_what_is_missing, recognition)
    database = await process.database("ingestion")
    # Callers that wait for connections must not keep a worker from extending its lease.
    hands = settings.documents_at_once + SPARE
    own = await process.database("ingestion", size=hands + 2)
    neighbours = Neighbours(
        embedding_v1.EmbeddingServiceAsyncStub(process.channel("embedding_bulk")),
        guardrail_v1.GuardrailServiceAsyncStub(process.channel("guardrail")),
        retrieval_v1.RetrievalServiceAsyncStub(process.channel("retrieval")),
        process.signer(),
    )
    changes = Changes()
    if process.server is None:
        raise RuntimeError("ingestion needs its server")
    removal = Removal(database, blobs, neighbours, changes)
    queue = Queue(
        own,
        # Only one process can listen there, so whoever had this name before is dead.
        owner=f"{socket.gethostname()}/{process.server.port}",
        lease_seconds=settings.lease_seconds,
        most_starts=settings.most_starts,
    )
    tools = Tools(
        blobs=blobs,
        queue=queue,
        neighbours=neighbours,
        tokenizer=_tokenizer,
        embedding=asyncio.Semaphore(settings.embed_parallel),
        scanner=settings.scanner(),
        paces=Paces(settings.replicas),
        policy=AttemptPolicy(
            chunking=ChunkingPolicy.of(settings.chunk_tokens, settings.chunk_overlap_tokens),
            limits=Limits(
                settings.extraction_memory_bytes, settings.extraction_seconds, recognition
            ),
            batch=settings.embed_batch,
            ahead=settings.embed_parallel + 1,
            patience_seconds=settings.patience_seconds,
        ),
    )
    policy = WorkerPolicy(
        at_once=settings.documents_at_once,
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.poll_seconds,
        retry_later_seconds=settings.retry_later_seconds,
    )
    worker = Worker(tools, changes, policy, process.draining)
    catalogue = Catalogue(database, settings.queue_limit)
    parts = Parts(
        catalogue, blobs, removal, neighbours, changes, settings.largest_upload, process.draining
    )
    process.serve(v1.add_IngestionServiceServicer_to_server, IngestionServicer(parts))
    process.background("worker", worker.run())
    process.background("backlog metrics", watch_backlog(queue))
    process.background("queue listener", worker.listen(database))
    process.background("watched documents", changes.follow(database, _WATCHED_SECONDS))
    process.background("removal sweeper", removal.sweep(settings.sweep_seconds))
    process.background("housekeeping", keep_house(database, blobs, settings.orphan_hours))


if __name__ == "__main__":
    run(IngestionSettings, start, spawns=True)
