"""/v1/projects: made, changed, exported and removed without a trace.

The scope `admin` is that of the whole installation: its holder may act on any
project, so it is given to operators and to nobody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import grpc
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from gateway import problem, sse
from gateway.admission import BULK
from gateway.bodies import ProjectBody, ProjectChange
from gateway.endpoint import GuardedRoute, caller_of, requires
from gateway.json_response import JsonResponse
from gateway.mesh import Mesh, mesh_of
from gateway.problem import request_id_of
from gateway.projects import Project
from gateway.routes.usage import Budget, budget_json
from meshkit import pagetoken
from meshkit.context import acting_as
from meshkit.errors import InvalidInput
from meshkit.logging import logger

log = logger(__name__)

router = APIRouter(
    prefix="/v1/projects",
    tags=["projects"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)


class ProjectJson(TypedDict):
    """A project; `state` is `deleting` while its purge is under way."""

    id: str
    name: str
    state: str
    settings: dict[str, Any]
    created_at: str


class ProjectWithBudget(ProjectJson):
    """A project and its money."""

    budget: Budget


class ProjectPage(TypedDict):
    """A page of projects, oldest first; no token on the last one."""

    projects: list[ProjectJson]
    next_page_token: str


class Receipt(TypedDict):
    """What a purge removed."""

    project_id: str
    documents_removed: int
    files_removed: int
    chunks_removed: int
    answers_removed: int
    conversations_removed: int
    usage_entries_removed: int
    keys_removed: int


def _project(found: Project) -> ProjectJson:
    return {
        "id": found.id,
        "name": found.name,
        "state": "deleting" if found.deleted_at else "active",
        "settings": found.settings,
        "created_at": found.created_at.isoformat(),
    }


async def _with_budget(mesh: Mesh, found: Project) -> ProjectWithBudget:
    budget = budget_json(await mesh.projects.budget(found.id))
    return {**_project(found), "budget": budget}


@router.post(
    "", status_code=201, summary="Make a project", responses={201: {"model": ProjectWithBudget}}
)
@requires("admin")
async def create_project(request: Request, body: ProjectBody) -> Response:
    """Makes a project; keys for it come from POST /v1/keys."""
    mesh = mesh_of(request)
    created = await mesh.projects.create(body.name, body.settings.chosen())
    if body.budget_micro_usd is not None:
        await mesh.projects.set_budget(created.id, body.budget_micro_usd)
    return JsonResponse(await _with_budget(mesh, created), status_code=201)


@router.get("", summary="List projects", responses={200: {"model": ProjectPage}})
@requires("admin")
async def list_projects(
    request: Request,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: Annotated[str, Query(max_length=1024)] = "",
) -> Response:
    """Every project of the installation, oldest first."""
    after = pagetoken.decode(page_token).get("after", "")
    if not isinstance(after, str):
        raise InvalidInput("PAGE_TOKEN_INVALID", "The page token is none that this service gave.")
    found = await mesh_of(request).projects.page(after, page_size + 1)
    more = len(found) > page_size
    page: ProjectPage = {
        "projects": [_project(project) for project in found[:page_size]],
        "next_page_token": pagetoken.encode({"after": found[page_size - 1].id}) if more else "",
    }
    return JsonResponse(page)


@router.get(
    "/{project_id}", summary="Read a project", responses={200: {"model": ProjectWithBudget}}
)
@requires("admin")
async def get_project(request: Request, project_id: str) -> Response:
    """One project with its budget."""
    mesh = mesh_of(request)
    return JsonResponse(await _with_budget(mesh, await mesh.projects.get(project_id)))


@router.patch(
    "/{project_id}", summary="Change a project", responses={200: {"model": ProjectWithBudget}}
)
@requires("admin")
async def change_project(request: Request, project_id: str, body: ProjectChange) -> Response:
    """Changes name, settings or budget; what is left out stays.

    Settings hold for requests from now on, at other gateways within seconds, and for contexts
    that POST /v1/token gave before until those end.
    """
    mesh = mesh_of(request)
    settings = None if body.settings is None else body.settings.chosen()
    changed = await mesh.projects.change(project_id, name=body.name, settings=settings)
    mesh.authenticator.forget()
    if "budget_micro_usd" in body.model_fields_set:
        await mesh.projects.set_budget(project_id, body.budget_micro_usd)
    return JsonResponse(await _with_budget(mesh, changed))


@router.delete("/{project_id}", summary="Remove a project", responses={200: {"model": Receipt}})
@requires("admin", seconds="export_seconds")
async def delete_project(request: Request, project_id: str) -> Response:
    """Removes a project and everything of it everywhere, and says what that was.

    From the first step on none of its keys works. A purge that broke off is
    finished by asking again.
    """
    mesh = mesh_of(request)
    await mesh.projects.close(project_id)
    mesh.authenticator.forget()
    seconds = mesh.settings.export_seconds
    caller, request_id = caller_of(request), request_id_of(request)
    # Signed for each call: the first may take longer than a context lives.
    with acting_as(mesh.contexts.fresh(caller, request_id, project_id=project_id)):
        documents = await mesh.ingestion.PurgeProject(
            ingestion_v1.PurgeProjectRequest(project_id=project_id), timeout=seconds
        )
    with acting_as(mesh.contexts.fresh(caller, request_id, project_id=project_id)):
        answers = await mesh.generation.PurgeProject(
            generation_v1.PurgeProjectRequest(project_id=project_id), timeout=seconds
        )
    entries, keys = await mesh.projects.remove(project_id)
    log.info("project purged", purged=project_id)
    receipt: Receipt = {
        "project_id": project_id,
        "documents_removed": documents.documents_removed,
        "files_removed": documents.files_removed,
        "chunks_removed": documents.chunks_removed,
        "answers_removed": answers.answers_removed,
        "conversations_removed": answers.conversations_removed,
        "usage_entries_removed": entries,
        "keys_removed": keys,
    }
    return JsonResponse(receipt)


@router.get(
    "/{project_id}/export",
    summary="Export a project",
    responses={
        200: {
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
            "description": "JSON lines, each with a `kind` of `document` or `chunk`.",
        }
    },
)
@requires("admin", seconds="export_seconds", kind=BULK)
async def export_project(
    request: Request, project_id: str, documents_only: bool = False
) -> Response:
    """Documents and chunks of a project as JSON lines, as they are read."""
    mesh = mesh_of(request)
    await mesh.projects.get(project_id)
    context = mesh.contexts.fresh(caller_of(request), request_id_of(request), project_id=project_id)
    with acting_as(context):
        call: Any = mesh.ingestion.ExportProject(
            ingestion_v1.ExportProjectRequest(documents_only=documents_only),
            timeout=mesh.settings.export_seconds,
        )
    # Waited for here, so that a refusal still has a status of its own.
    first = await call.read()
    return sse.ClosingStream(_lines(call, first), media_type="application/jsonl")


async def _lines(call: Any, message: Any) -> AsyncIterator[bytes]:
    try:
        while message is not grpc.aio.EOF:
            yield message.lines
            message = await call.read()
    finally:
        call.cancel()
