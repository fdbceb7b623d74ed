"""The one codec of page tokens: opaque to callers, a small dictionary to us."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from meshkit.errors import InvalidInput


def encode(position: dict[str, Any]) -> str:
    """The token for a position; an empty position is the empty token."""
    if not position:
        return ""
    raw = json.dumps(position, separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(token: str) -> dict[str, Any]:
    """The position a token stands for.

    Raises:
        InvalidInput: PAGE_TOKEN_INVALID when it is none of ours.
    """
    if not token:
        return {}
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        position = json.loads(raw)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            "PAGE_TOKEN_INVALID", "The page token is none that this service gave."
        ) from error
    if not isinstance(position, dict):
        raise InvalidInput("PAGE_TOKEN_INVALID", "The page token is none that this service gave.")
    return position
