"""What a file is, told by its content; its name only tells text formats apart.

An upload shows only its first bytes (`of_head`), which do not tell one Office
format from another for sure; the whole file does (`of_source`).
"""

from __future__ import annotations

import mmap
import re
import zipfile
from contextlib import closing
from pathlib import PurePath
from typing import BinaryIO

from services.ingestion.extraction import decoding
from services.ingestion.extraction.model import (
    ACCEPTED,
    BMP,
    CSV,
    DOC,
    DOCX,
    EML,
    EPUB,
    GIF,
    HTML,
    JPEG,
    MARKDOWN,
    ODS,
    ODT,
    PDF,
    PLAIN,
    PNG,
    PPT,
    PPTX,
    RTF,
    TIFF,
    TSV,
    WEBP,
    XLS,
    XLSB,
    XLSX,
    FileRefused,
    Source,
)

HEAD_BYTES = 4096
"""Bytes that `of_head` wants to see."""

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAGIC = (
    (b"{\\rtf", RTF),
    (b"\x89PNG\r\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),
    (b"MM\x00+", TIFF),
)
_UNSUPPORTED = (
    (b"\x1f\x8b", "a compressed archive"),
    (b"7z\xbc\xaf", "a compressed archive"),
    (b"Rar!", "a compressed archive"),
    (b"BZh", "a compressed archive"),
    (b"\xfd7zXZ\x00", "a compressed archive"),
    (b"\x7fELF", "a program"),
    (b"ID3", "a recording"),
    (b"OggS", "a recording"),
    (b"fLaC", "a recording"),
    (b"\x1aE\xdf\xa3", "a film"),
)
_HTML_START = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*:[ \t]")
_MAIL_HEADER = re.compile(
    r"^(from|to|subject|date|mime-version|message-id|received|return-path|delivered-to):[ \t]",
    re.IGNORECASE | re.MULTILINE,
)
_SUFFIXES = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".mdown": MARKDOWN,
    ".html": HTML, ".htm": HTML, ".xhtml": HTML,
    ".csv": CSV, ".tsv": TSV, ".tab": TSV, ".eml": EML,
}  # fmt: skip
_ZIP_MEMBERS = {
    "word/document.xml": DOCX,
    "ppt/presentation.xml": PPTX,
    "xl/workbook.xml": XLSX,
    "xl/workbook.bin": XLSB,
}
_ZIP_SUFFIXES = {
    ".docx": DOCX, ".docm": DOCX, ".dotx": DOCX, ".pptx": PPTX, ".pptm": PPTX, ".ppsx": PPTX,
    ".xlsx": XLSX, ".xlsm": XLSX, ".xlsb": XLSB, ".odt": ODT, ".ods": ODS, ".epub": EPUB,
}  # fmt: skip
_OLE_SUFFIXES = {**_ZIP_SUFFIXES, ".doc": DOC, ".dot": DOC, ".xls": XLS, ".ppt": PPT}
_OLE_STREAMS = (
    ("EncryptedPackage", ""),
    ("WordDocument", DOC),
    ("Workbook", XLS),
    ("PowerPoint Document", PPT),
)


def of_head(head: bytes, file_name: str) -> str:
    """Media type by the first bytes of a file, as soon as an upload has shown them.

    Raises:
        FileRefused: FILE_EMPTY or FILE_TYPE_UNSUPPORTED.
    """
    if not head:
        raise FileRefused("FILE_EMPTY", "The file is empty; upload one that has content.")
    suffix = PurePath(file_name).suffix.lower()
    return _by_magic(head, suffix) or _of_text(head, suffix)


def _by_magic(head: bytes, suffix: str) -> str:
    """By the bytes that formats begin with; empty when it can only be text.

    Raises:
        FileRefused: FILE_TYPE_UNSUPPORTED.
    """
    # Readers accept up to 1 KB of junk before a PDF's header, and such files exist.
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(_ZIP):
        return _ZIP_SUFFIXES.get(suffix, DOCX)
    if head.startswith(_OLE):
        return _OLE_SUFFIXES.get(suffix, DOC)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head.startswith(b"BM") and head[6:10] == b"\x00\x00\x00\x00":
        return BMP
    for magic, what in _UNSUPPORTED:
        if head.startswith(magic):
            raise unsupported(what)
    if head.startswith(b"MZ") and b"\x00" in head:
        raise unsupported("a program")
    return next((media_type for magic, media_type in _MAGIC if head.startswith(magic)), "")


def _of_text(head: bytes, suffix: str) -> str:
    text = decoding.decode(head, whole=len(head) < HEAD_BYTES)
    if _HTML_START.match(text):
        return HTML
    if suffix not in _SUFFIXES and _is_mail(text):
        return EML
    return _SUFFIXES.get(suffix, PLAIN)


def of_source(source: Source) -> str:
    """Media type of a whole file. Reads its head, and the directory of a container.

    Raises:
        FileRefused: FILE_EMPTY, FILE_TYPE_UNSUPPORTED, FILE_ENCRYPTED or FILE_CORRUPT.
    """
    with source.open() as file:
        head = file.read(HEAD_BYTES)
        media_type = of_head(head, source.name)
        if head.startswith(_OLE):
            return _of_compound_file(file)
        if head.startswith(_ZIP):
            return _of_archive(file)
    return media_type


def _of_compound_file(file: BinaryIO) -> str:
    """By the streams that the old Office container names, wherever its directory lies."""
    try:
        with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
            found = [kind for name, kind in _OLE_STREAMS if _holds(content, name)]
    except OSError:  # bytes in memory have no file number
        file.seek(0)
        data = file.read()
        found = [kind for name, kind in _OLE_STREAMS if _holds(data, name)]
    if not found:
        raise unsupported("an Office file of an unknown kind")
    if not found[0]:
        # Office wraps an encrypted document in the old container format.
        raise FileRefused(
            "FILE_ENCRYPTED", "The file is protected by a password; upload it without."
        )
    return found[0]


def _holds(content: bytes | mmap.mmap, name: str) -> bool:
    return content.find(name.encode("utf-16-le")) >= 0


def _of_archive(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            kind = ""
            if "mimetype" in names:
                with archive.open("mimetype") as declared:
                    kind = declared.read(100).decode("ascii", "replace").strip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        raise FileRefused(
            "FILE_CORRUPT", "The file is damaged or was cut off; upload it again in full."
        ) from None
    if kind in (ODT, ODS, EPUB):
        return kind
    for member, media_type in _ZIP_MEMBERS.items():
        if member in names:
            return media_type
    raise unsupported("an archive, or an Office file of a kind that is not read")


def _is_mail(text: str) -> bool:
    """Whether a text begins with a block of mail headers."""
    block = text.split("\n\n", 1)[0]
    return bool(_HEADER.match(block)) and len(_MAIL_HEADER.findall(block)) >= 3


def unsupported(what: str) -> FileRefused:
    """The refusal of a file that is `what`."""
    return FileRefused("FILE_TYPE_UNSUPPORTED", f"The file is {what}; {ACCEPTED} can be read.")
