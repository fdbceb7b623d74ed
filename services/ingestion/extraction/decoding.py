"""From bytes to text: encodings told apart by what they cannot be.

A byte order mark decides; without one the text is UTF-8 if it is valid UTF-8,
UTF-16 if every other byte is zero, else what chardet takes it for by the letters
that follow each other, else Windows-1252. Bytes that no text has are refused.
"""

from __future__ import annotations

import codecs
import re

from services.ingestion.extraction.model import ACCEPTED, FileRefused

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_GUESSED_BYTES = 65_536
_CONTROL_SHARE = 0.005
"""Share of control characters above which something is not text."""


def decode(data: bytes, *, declared: str = "", whole: bool = True) -> str:
    """The text of `data` with line feeds as line ends.

    Args:
        data: The file, or its beginning.
        declared: Encoding the file itself names, as HTML does; used if it fits.
        whole: False when `data` may end in the middle of a character.

    Raises:
        FileRefused: FILE_TYPE_UNSUPPORTED when this is no text.
    """
    text = _decode(data, declared, whole)
    if len(_CONTROLS.findall(text)) > len(text) * _CONTROL_SHARE:
        raise _not_text()
    return tidy(text)


def tidy(text: str) -> str:
    """Line feeds as line ends, without what neither Postgres nor protobuf can hold."""
    return _UNSTORABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _decode(data: bytes, declared: str, whole: bool) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data, encoding, whole) or _replacing(data, encoding)
    for encoding in filter(None, (_unmarked_utf16(data), declared, "utf-8")):
        text = _strict(data, encoding, whole)
        if text is not None:
            return text
    if b"\x00" in data:
        raise _not_text()
    guessed = _strict(data, _guess(data), whole)
    if guessed is not None:
        return guessed
    # Five bytes are undefined in Windows-1252; a stray one must not cost the file.
    return data.decode("cp1252", errors="replace")


def _guess(data: bytes) -> str:
    # Imported here: most files are UTF-8, and its tables cost 30 ms.
    import chardet

    found = chardet.detect(data[:_GUESSED_BYTES])["encoding"]
    # It says ISO 8859-1 of text that lies in what the two have in common.
    return "cp1252" if not found or found.lower() == "iso-8859-1" else found


def _strict(data: bytes, encoding: str, whole: bool) -> str | None:
    try:
        decoder = codecs.getincrementaldecoder(encoding)(errors="strict")
        return decoder.decode(data, final=whole)
    except (UnicodeDecodeError, LookupError):
        return None


def _replacing(data: bytes, encoding: str) -> str:
    return data.decode(encoding, errors="replace")


def _unmarked_utf16(data: bytes) -> str:
    """`utf-16-le` or `-be` when one half of the bytes is mostly zero and the other never."""
    sample = data[:4096]
    if len(sample) < 4:
        return ""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > half * 0.4 and even == 0:
        return "utf-16-le"
    if even > half * 0.4 and odd == 0:
        return "utf-16-be"
    return ""


def _not_text() -> FileRefused:
    return FileRefused(
        "FILE_TYPE_UNSUPPORTED",
        f"The file is of no kind that is known; {ACCEPTED} can be read.",
    )
