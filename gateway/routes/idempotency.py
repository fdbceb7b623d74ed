"""The caller's `Idempotency-Key`: the same key again is the same request."""

from __future__ import annotations

import re

from fastapi import Request

from meshkit.errors import InvalidInput
from meshkit.ids import new_request_id

HEADER = "Idempotency-Key"
_SHAPE = re.compile(r"[\x21-\x7e]{8,128}")


def request_id(request: Request) -> str:
    """What the services deduplicate by: the caller's key, else an id of our own.

    The `X-Request-ID` is no such key: proxies send it again with other requests.

    Raises:
        InvalidInput: IDEMPOTENCY_KEY_INVALID.
    """
    given = request.headers.get(HEADER)
    if given is None:
        return new_request_id()
    if not _SHAPE.fullmatch(given):
        raise InvalidInput(
            "IDEMPOTENCY_KEY_INVALID",
            f"{HEADER} must be 8 to 128 printable characters without blanks.",
        )
    return given
