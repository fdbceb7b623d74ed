"""The console at / and the API's documentation at /docs: static files of our own.

FastAPI's own documentation page loads its script from a content delivery
network; ours works offline and under a policy that allows no foreign script.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.endpoint import AnonymousRoute
from gateway.json_response import JsonResponse
from meshkit.errors import NotFound

router = APIRouter(include_in_schema=False, route_class=AnonymousRoute)

_DIRECTORY = Path(__file__).parent.parent / "console"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Read once: the names below are the only ones served, so no path can lead elsewhere.
_FILES = {path.name: path.read_bytes() for path in _DIRECTORY.iterdir() if path.suffix in _TYPES}


def _file(name: str) -> Response:
    if name not in _FILES:
        raise NotFound("ROUTE_NOT_FOUND", "There is no such file.")
    return Response(_FILES[name], media_type=_TYPES[Path(name).suffix])


@router.get("/")
async def console() -> Response:
    """The console."""
    return _file("index.html")


@router.get("/docs")
async def documentation() -> Response:
    """The documentation of the interface."""
    return _file("docs.html")


@router.get("/console/{name}")
async def asset(name: str) -> Response:
    """A script or style of the pages."""
    return _file(name)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The description of the interface."""
    return JsonResponse(request.app.openapi())
