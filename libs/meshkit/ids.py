"""Names for things: a prefix that says the kind, and 26 characters that sort by time."""

from __future__ import annotations

import secrets
import time

# Crockford's base 32 in lower case: no letter that looks like another.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH = 26


def new_id(prefix: str) -> str:
    """A new id such as `doc_06c3q8m2...`: 48 bits of milliseconds, 80 of chance."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    digits = [_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"


def new_request_id() -> str:
    """An id for a request that came without one."""
    return new_id("req")
