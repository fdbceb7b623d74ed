"""Looks at a ZIP's directory before a parser does: Office files, OpenDocument and EPUB.

Nothing is ever unpacked to disk, so names that climb out of a folder do nothing,
and macros and embedded programs are never looked at. What remains is size: a few
kilobytes that unpack to gigabytes.
"""

from __future__ import annotations

import zipfile

from services.ingestion.extraction.model import FileRefused, Source

_MOST_MEMBERS = 20_000
_MOST_BYTES = 2_000_000_000
"""Unpacked, of all members."""
_FREE_BYTES = 20_000_000
"""A member below this size may be packed as tightly as it likes."""
_MOST_RATIO = 150
"""Unpacked to packed, of a larger member; XML of large sheets reaches about 30."""


def check(source: Source) -> None:
    """Refuses an archive bomb.

    Raises:
        FileRefused: ARCHIVE_BOMB, FILE_ENCRYPTED or FILE_CORRUPT.
    """
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError):
        raise FileRefused(
            "FILE_CORRUPT", "The file is damaged or was cut off; upload it again in full."
        ) from None
    total = sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS or total > _MOST_BYTES or any(map(_is_bomb, members)):
        raise FileRefused(
            "ARCHIVE_BOMB",
            "The file unpacks to far more than a document holds; save it anew and upload that.",
        )
    if any(member.flag_bits & 1 for member in members):
        raise FileRefused(
            "FILE_ENCRYPTED", "The file is protected by a password; upload it without."
        )


def _is_bomb(member: zipfile.ZipInfo) -> bool:
    size = member.file_size
    return size > _FREE_BYTES and size > _MOST_RATIO * max(1, member.compress_size)
