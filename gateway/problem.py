"""Every error as `application/problem+json` (RFC 9457), whoever raised it.

One shape for all of them: type, title, status, reason, detail, request_id, and
`fields` when single fields of the request are at fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NotRequired

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import TypedDict

from meshkit.errors import RETRY_SECONDS, InvalidInput, MeshError

MEDIA_TYPE = "application/problem+json"


class Problem(TypedDict):
    """The body of every error."""

    type: str
    title: str
    status: int
    reason: str
    detail: str
    request_id: str
    fields: NotRequired[dict[str, str]]


_TITLES = {499: "Client Closed Request"}

_HTTP_REASONS = {
    # The framework's only 400: bytes that are no text.
    400: ("BODY_NOT_JSON", "The body is not JSON in UTF-8."),
    404: ("ROUTE_NOT_FOUND", "There is nothing at this path; GET /openapi.json lists the paths."),
    405: ("METHOD_NOT_ALLOWED", "This path does not know the method."),
    413: ("BODY_TOO_LARGE", "The body of the request is too large."),
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": Problem,
        "description": "What went wrong, with a reason and the request's id.",
        "content": {MEDIA_TYPE: {}},
    }
}
"""For the routes' documentation."""


def body(error: MeshError, request_id: str) -> Problem:
    """The error as a problem."""
    status = error.http_status
    problem: Problem = {
        "type": f"urn:citemesh:error:{error.reason}",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "reason": error.reason,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.fields:
        problem["fields"] = error.fields
    return problem


def response(
    error: MeshError, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The error as a response."""
    sent = dict(headers or {})
    again = error.retry_after
    if again is None and error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        again = RETRY_SECONDS
    if again is not None:
        sent["Retry-After"] = str(max(1, math.ceil(again)))
    if error.http_status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(
        to_json(body(error, request_id)),
        status_code=error.http_status,
        headers=sent,
        media_type=MEDIA_TYPE,
    )


def request_id_of(request: Request) -> str:
    """The id the edge gave the request."""
    return str(request.scope["state"]["request_id"])


class _HttpError(MeshError):
    """An error of the HTTP layer, which knows only its status."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.status = status

    @property
    def http_status(self) -> int:  # type: ignore[override]
        """The status the HTTP layer chose."""
        return self.status


def _field(location: Iterable[int | str]) -> str:
    """`body.filter.labels` as `filter.labels`; what it is part of is plain."""
    return ".".join(str(part) for part in list(location)[1:])


def validation_error(error: RequestValidationError) -> InvalidInput:
    """The first thing that is wrong as the sentence, all of them in `fields`.

    The values themselves are never repeated: they may be document text.
    """
    found = error.errors()
    first = found[0]
    kind, name = first["type"], _field(first["loc"])
    if kind == "json_invalid":
        return InvalidInput(
            "BODY_NOT_JSON", f"The body is not JSON: it breaks at character {first['loc'][-1]}."
        )
    if not name:
        return InvalidInput("BODY_NOT_JSON", "The body must be a JSON object, sent as JSON.")
    texts = {_field(item["loc"]): str(item["msg"]) for item in found}
    if kind == "extra_forbidden":
        return InvalidInput(
            "FIELD_UNKNOWN", f"There is no field '{name[:200]}' here.", fields=texts
        )
    if kind == "missing":
        return InvalidInput("FIELD_MISSING", f"The field '{name}' is missing.", fields=texts)
    if kind == "string_too_long":
        reason = "QUESTION_TOO_LONG" if name == "question" else "FIELD_TOO_LONG"
        most = first.get("ctx", {}).get("max_length")
        return InvalidInput(
            reason, f"The field '{name}' may have at most {most} characters.", fields=texts
        )
    return InvalidInput(
        "FIELD_INVALID", f"The field '{name}' is wrong: {first['msg']}.", fields=texts
    )


def answer(
    request: Request, error: MeshError, headers: Mapping[str, str] | None = None
) -> Response:
    """The error as the response to a request."""
    # The edge writes it into span and log.
    request.scope["state"]["error"] = error
    return response(error, request_id_of(request), headers)


def http_answer(request: Request, error: HTTPException) -> Response:
    """An error of the HTTP layer as the response to a request."""
    status = error.status_code
    reason, detail = _HTTP_REASONS.get(status, (f"HTTP_{status}", "The request failed."))
    return answer(request, _HttpError(status, reason, detail), error.headers)


def install(app: FastAPI) -> None:
    """Makes the app answer every error as a problem."""

    async def mesh(request: Request, error: Exception) -> Response:
        assert isinstance(error, MeshError)
        return answer(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return http_answer(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, validation_error(error))

    app.add_exception_handler(MeshError, mesh)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
