"""JSON as it leaves: written once by pydantic's Rust encoder, validated never.

Responses are typed dictionaries, so mypy checks their shape and a request pays
nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


class JsonResponse(Response):
    """A JSON body; NaN and infinity become null."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(to_json(content, inf_nan_mode="null"), status_code, headers)
