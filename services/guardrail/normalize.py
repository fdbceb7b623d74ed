"""Undoes the ways in which an instruction is hidden from rules that read plain words.

Rules look at several *readings* of a text: as it is, with invisible characters removed and
look-alike letters folded, with l e t t e r s put together, and what Base64 pieces decode to.
"""

import base64
import binascii
import re
import unicodedata
from dataclasses import dataclass

# Zero-width, bidirectional controls, soft hyphen, byte order mark, tags, variation selectors 17+.
HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\U000e0000-\U000e01ef]"
)
# Unicode tags spell ASCII invisibly (U+E0020 to U+E007E).
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
# Cyrillic and Greek letters that look like Latin ones; folded only inside words that mix scripts.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһԛԝАВЕКМНОРСТУХІЈЅαορνικΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijsdhqwABEKMHOPCTYXIJSaopvikABEZHIKMNOPTYX",
)
_WORD = re.compile(r"\w+")
_LATIN_LETTER = re.compile("[A-Za-z]")
_NOT_LATIN_LETTER = re.compile("[\u0370-\u03ff\u0400-\u052f]")
_SPACED = re.compile(r"(?<!\w)(?:\w[ .\-_*]){5,}\w(?!\w)")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{24,4096}={0,2}(?![A-Za-z0-9+/=])")


@dataclass(frozen=True, slots=True)
class Reading:
    """One way of reading a text."""

    text: str
    """What is read, lower-cased and with single spaces."""
    how: str
    """`plain`, `unhidden`, `joined` or `decoded`."""


def plain(text: str) -> str:
    """Lower case, compatibility forms folded (NFKC), one space between words, straight quotes."""
    folded = unicodedata.normalize("NFKC", text).lower()
    folded = folded.translate(str.maketrans("’‘“”„´`", "''\"\"\"''"))
    return re.sub(r"[ \t\u00a0]+", " ", folded)


def _unhide(text: str) -> str:
    spelled = _TAGS.sub(lambda m: "".join(chr(ord(c) - 0xE0000) for c in m.group()), text)
    shown = HIDDEN.sub("", spelled)

    def fold(match: re.Match[str]) -> str:
        word = match.group()
        mixed = _NOT_LATIN_LETTER.search(word) and _LATIN_LETTER.search(word)
        return word.translate(_LOOKALIKES) if mixed else word

    # Whole words: a pattern that asks for the letter itself tries every place of a long word
    # without one, in time that grows with the square of its length.
    return _WORD.sub(fold, shown)


def _join(text: str) -> str:
    return _SPACED.sub(lambda m: re.sub(r"[ .\-_*]", "", m.group()), text)


def _decode(text: str) -> list[str]:
    decoded = []
    for match in _BASE64.finditer(text):
        piece = match.group()
        try:
            spoken = base64.b64decode(piece + "=" * (-len(piece) % 4), validate=True).decode(
                "ascii"
            )
        except (binascii.Error, UnicodeDecodeError):
            continue  # most long words are no Base64 of a text
        if spoken.isprintable():
            decoded.append(spoken)
    return decoded


def readings(text: str) -> list[Reading]:
    """Every distinct reading of `text`, the plain one first."""
    found = [Reading(plain(text), "plain")]
    unhidden = _unhide(text)
    if unhidden != text:
        found.append(Reading(plain(unhidden), "unhidden"))
    joined = _join(unhidden)
    if joined != unhidden:
        found.append(Reading(plain(joined), "joined"))
    found += (Reading(plain(piece), "decoded") for piece in _decode(unhidden))
    return found
