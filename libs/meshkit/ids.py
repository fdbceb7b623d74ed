"""Names for things: a prefix that says the kind, and 26 characters that sort by time."""

from __future__ import annotations

import re
import secrets
import time

# Crockford's base 32 in lower case: no letter that looks like another.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH = 26
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")


def new_id(prefix: str) -> str:
    """A new id such as `doc_06c3q8m2...`: 48 bits of milliseconds, 80 of chance."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    digits = [_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


def new_request_id() -> str:
    """An id for a request that came without one."""
    return new_id("req")


def is_request_id(text: str) -> bool:
    """Whether a text may name a request in logs, traces and headers: only a plain word.

    8 to 128 letters, digits, dots, colons, hyphens and underscores.
    """
    return _REQUEST_ID.fullmatch(text) is not None
