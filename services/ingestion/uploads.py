"""Receives a file: checked and hashed while it streams into the blob store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meshkit.errors import InvalidInput, MeshError, TooLarge, Unprocessable, Unsupported
from services.ingestion.blobs import BlobStore, new_key
from services.ingestion.documents import StoredFile
from services.ingestion.extraction import media
from services.ingestion.extraction.model import FileRefused
from services.ingestion.purged import gone

_FLUSH_BYTES = 1 << 20
"""Written at once: small messages would cost a thread switch each."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the caller says the file will be."""

    file_name: str
    sha256: str = ""
    """Empty when the caller did not say."""
    size_bytes: int = 0
    """0 when the caller did not say."""


async def receive(
    store: BlobStore,
    project_id: str,
    data: AsyncIterator[bytes],
    expected: Expectation,
    max_bytes: int,
) -> StoredFile:
    """Stores a file; when anything is wrong with it nothing is left behind.

    Args:
        store: Where to.
        project_id: Whose file it is.
        data: The file, in pieces of any size.
        expected: What the caller says of it.
        max_bytes: Largest file that is accepted.

    Raises:
        InvalidInput: FILE_EMPTY or CHECKSUM_MISMATCH.
        TooLarge: FILE_TOO_LARGE, as soon as it is.
        Unsupported: FILE_TYPE_UNSUPPORTED, after its first bytes.
        NotFound: PROJECT_PURGED while it arrived.
    """
    if expected.size_bytes > max_bytes:
        raise _too_large(max_bytes)
    key = new_key(project_id)
    fingerprint, size, buffer, head = hashlib.sha256(), 0, bytearray(), b""
    async with store.create(key) as writer:

        async def flush() -> None:
            piece = bytes(buffer)
            buffer.clear()
            await asyncio.gather(writer.write(piece), asyncio.to_thread(fingerprint.update, piece))

        async for piece in data:
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            buffer += piece
            if not head and len(buffer) >= media.HEAD_BYTES:
                head = bytes(buffer[: media.HEAD_BYTES])
                _media_type(head, expected.file_name)
            if len(buffer) >= _FLUSH_BYTES:
                await flush()
        media_type = _media_type(head or bytes(buffer), expected.file_name)
        if buffer:
            await flush()
        _check(expected, fingerprint.hexdigest(), size)
        try:
            await writer.commit()
        except FileNotFoundError:
            raise gone() from None
    return StoredFile(key, media_type, size, fingerprint.hexdigest())


def refusal(refused: FileRefused) -> MeshError:
    """The error a caller sees for a file that was refused."""
    if refused.reason == "FILE_TYPE_UNSUPPORTED":
        return Unsupported(refused.reason, refused.detail)
    if refused.reason == "FILE_EMPTY":
        return InvalidInput(refused.reason, refused.detail)
    return Unprocessable(refused.reason, refused.detail)


def _media_type(head: bytes, file_name: str) -> str:
    try:
        return media.of_head(head, file_name)
    except FileRefused as refused:
        raise refusal(refused) from None


def _check(expected: Expectation, sha256: str, size: int) -> None:
    if expected.size_bytes and expected.size_bytes != size:
        raise InvalidInput(
            "CHECKSUM_MISMATCH",
            f"{expected.size_bytes} bytes were announced and {size} arrived; upload it again.",
        )
    if expected.sha256 and expected.sha256 != sha256:
        raise InvalidInput(
            "CHECKSUM_MISMATCH", "The file arrived with another checksum; upload it again."
        )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        "FILE_TOO_LARGE",
        f"The file is larger than the {max_bytes} bytes that are accepted; split it into parts.",
    )
