"""/v1/keys: made, listed and revoked. A key is shown once, when it is made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from gateway import problem
from gateway.api_keys import ApiKey
from gateway.bodies import KeyBody
from gateway.endpoint import GuardedRoute, caller_of, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from meshkit.errors import InvalidInput, NotFound

router = APIRouter(
    prefix="/v1/keys",
    tags=["keys"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)


class Key(TypedDict):
    """A key without its secret."""

    id: str
    project_id: str
    name: str
    prefix: str
    scopes: list[str]
    principals: list[str]
    created_at: str
    last_used_at: str | None
    revoked_at: str | None
    expires_at: str | None


class NewKey(Key):
    """A key with its secret, which is never shown again."""

    key: str


class Keys(TypedDict):
    """Keys of a project, oldest first, revoked ones too."""

    keys: list[Key]


def _time(found: datetime | None) -> str | None:
    return found.isoformat() if found else None


def _key(found: ApiKey) -> Key:
    return {
        "id": found.id,
        "project_id": found.project_id,
        "name": found.name,
        "prefix": found.prefix,
        "scopes": list(found.scopes),
        "principals": list(found.principals),
        "created_at": found.created_at.isoformat(),
        "last_used_at": _time(found.last_used_at),
        "revoked_at": _time(found.revoked_at),
        "expires_at": _time(found.expires_at),
    }


@router.post("", status_code=201, summary="Make a key", responses={201: {"model": NewKey}})
@requires("admin")
async def create_key(request: Request, body: KeyBody) -> Response:
    """Makes a key and shows it, this once."""
    mesh = mesh_of(request)
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise InvalidInput("FIELD_INVALID", "The field 'expires_at' lies in the past.")
    project = await mesh.projects.get(body.project_id or caller_of(request).project_id)
    if project.deleted_at is not None:
        raise NotFound("PROJECT_NOT_FOUND", f"Project {project.id} is being removed.")
    created, secret = await mesh.keys.create(
        project.id,
        name=body.name,
        scopes=body.scopes,
        principals=body.principals,
        expires_at=body.expires_at,
    )
    shown: NewKey = {**_key(created), "key": secret}
    return JsonResponse(shown, status_code=201)


@router.get("", summary="List keys", responses={200: {"model": Keys}})
@requires("admin")
async def list_keys(
    request: Request, project_id: Annotated[str, Query(max_length=64)] = ""
) -> Response:
    """Keys of a project; of the caller's own when none is named."""
    mesh = mesh_of(request)
    project = await mesh.projects.get(project_id or caller_of(request).project_id)
    keys: Keys = {"keys": [_key(found) for found in await mesh.keys.of(project.id)]}
    return JsonResponse(keys)


@router.delete("/{key_id}", status_code=204, summary="Revoke a key")
@requires("admin")
async def revoke_key(request: Request, key_id: str) -> Response:
    """Ends a key's life: here at once, at other gateways within seconds."""
    mesh = mesh_of(request)
    await mesh.keys.revoke(key_id)
    mesh.authenticator.forget()
    return Response(status_code=204)
