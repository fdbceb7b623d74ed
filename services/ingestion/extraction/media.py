"""What a file is, told by its content; its name only tells text formats apart."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePath

from services.ingestion.extraction import decoding
from services.ingestion.extraction.model import DOCX, HTML, MARKDOWN, PDF, PLAIN, FileRefused

HEAD_BYTES = 4096
"""Bytes that `of_head` wants to see."""

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_UNSUPPORTED = (
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"II*\x00", "an image"),
    (b"MM\x00*", "an image"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"7z\xbc\xaf", "a compressed archive"),
    (b"Rar!", "a compressed archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"{\\rtf", "an RTF file"),
)
_HTML_START = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIXES = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".mdown": MARKDOWN,
    ".html": HTML, ".htm": HTML, ".xhtml": HTML,
}  # fmt: skip


def of_head(head: bytes, file_name: str) -> str:
    """Media type by the first bytes of a file, as soon as an upload has shown them.

    Raises:
        FileRefused: FILE_EMPTY or FILE_TYPE_UNSUPPORTED.
    """
    if not head:
        raise FileRefused("FILE_EMPTY", "The file is empty; upload one that has content.")
    # Readers accept up to 1 KB of junk before a PDF's header, and such files exist.
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(_ZIP):
        return DOCX
    if head.startswith(_OLE):
        return DOCX  # an encrypted DOCX or a legacy document: `of_file` sees which
    for magic, what in _UNSUPPORTED:
        if head.startswith(magic):
            raise _unsupported(what)
    text = decoding.decode(head, whole=len(head) < HEAD_BYTES)
    if _HTML_START.match(text):
        return HTML
    return _SUFFIXES.get(PurePath(file_name).suffix.lower(), PLAIN)


def of_file(path: Path, file_name: str) -> str:
    """Media type of a whole file. Reads its head, and a ZIP's directory.

    Raises:
        FileRefused: FILE_EMPTY, FILE_TYPE_UNSUPPORTED, FILE_ENCRYPTED or FILE_CORRUPT.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        media_type = of_head(head, file_name)
        if head.startswith(_OLE):
            # Office wraps an encrypted document in the old container format.
            file.seek(0)
            if "EncryptedPackage".encode("utf-16-le") in file.read(1 << 20):
                raise FileRefused(
                    "FILE_ENCRYPTED", "The file is protected by a password; upload it without."
                )
            raise _unsupported("a document of an old Office format")
    if head.startswith(_ZIP):
        _check_docx(path)
    return media_type


def _check_docx(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile:
        raise FileRefused(
            "FILE_CORRUPT", "The file is damaged or was cut off; upload it again in full."
        ) from None
    if "word/document.xml" not in names:
        raise _unsupported("an archive or an Office file other than DOCX")


def _unsupported(what: str) -> FileRefused:
    return FileRefused(
        "FILE_TYPE_UNSUPPORTED",
        f"The file is {what}; PDF, DOCX, HTML, Markdown and plain text can be read.",
    )
