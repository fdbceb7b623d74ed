"""The interface as a whole: every public RPC has a route, every page stands on its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from citemesh.operations import v1 as operations_v1
from citemesh.retrieval import v1 as retrieval_v1
from gateway import app as application
from gateway.endpoint import GuardedRoute
from gateway.mesh import Slot
from gateway.readiness import Readiness
from gateway.settings import GatewaySettings

ROUTES = {
    "ingestion.UploadDocument": ("POST", "/v1/documents"),
    "ingestion.GetDocument": ("GET", "/v1/documents/{document_id}"),
    "ingestion.ListDocuments": ("GET", "/v1/documents"),
    "ingestion.WatchDocument": ("GET", "/v1/documents/{document_id}/events"),
    "ingestion.DeleteDocument": ("DELETE", "/v1/documents/{document_id}"),
    "ingestion.ReprocessDocument": ("POST", "/v1/documents/{document_id}:reprocess"),
    "ingestion.ExportProject": ("GET", "/v1/projects/{project_id}/export"),
    "ingestion.PurgeProject": ("DELETE", "/v1/projects/{project_id}"),
    "retrieval.Search": ("POST", "/v1/search"),
    "retrieval.ReadChunks": ("GET", "/v1/documents/{document_id}/chunks"),
    "operations.ListBreakers": ("GET", "/v1/providers"),
    "operations.ResetBreakers": ("POST", "/v1/providers:reset"),
    "generation.Answer": ("POST", "/v1/answers"),
    "generation.RecordFeedback": ("POST", "/v1/feedback"),
    "generation.PurgeProject": ("DELETE", "/v1/projects/{project_id}"),
}
INTERNAL = {
    "retrieval.IndexChunks": "written by ingestion alone, under its lease",
    "retrieval.ActivateVersion": "written by ingestion alone, under its lease",
    "retrieval.RemoveDocument": "written by ingestion alone, under its lease",
    "retrieval.PurgeProject": "ingestion.PurgeProject calls it",
    "retrieval.GetCorpusState": "what generation keeps its answers for",
    "retrieval.RebuildLexicalIndex": "an operator's command, over the stub",
    "retrieval.ReconcileLexicalIndex": "an operator's command, over the stub",
    "retrieval.ListIndexedSpaces": "an operator's command, over the stub",
    "retrieval.BuildSpace": "an operator's command, over the stub",
    "retrieval.PauseSpace": "an operator's command, over the stub",
    "retrieval.SwitchSpace": "an operator's command, over the stub",
    "retrieval.DropSpace": "an operator's command, over the stub",
    "generation.Generate": "no guardrail stands behind it; scope `internal`",
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return application.create_app(GatewaySettings(), Slot(Readiness()))


def rpcs() -> Iterator[str]:
    for package, module, service in (
        ("ingestion", ingestion_v1, "IngestionService"),
        ("retrieval", retrieval_v1, "RetrievalService"),
        ("generation", generation_v1, "GenerationService"),
        ("operations", operations_v1, "OperationsService"),
    ):
        base = getattr(module, f"{service}Servicer")
        yield from (f"{package}.{name}" for name in vars(base) if name[0].isupper())


def test_every_rpc_has_its_route_or_a_reason_to_have_none(app: FastAPI) -> None:
    found = set(rpcs())
    assert len(found) > 15
    assert found == ROUTES.keys() | INTERNAL.keys()
    described = app.openapi()["paths"]
    for rpc, (method, path) in ROUTES.items():
        assert method.lower() in described.get(path, {}), rpc


def test_every_route_under_v1_is_guarded() -> None:
    routes = [
        route
        for router in application.ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path.startswith("/v1")
    ]
    assert len(routes) > 15
    for route in routes:
        assert isinstance(route, GuardedRoute), route.path
        required = route.endpoint.required  # type: ignore[attr-defined]
        scope, seconds = required.scope, required.seconds
        assert scope in {"read", "write", "admin"}
        assert getattr(GatewaySettings(), seconds) > 0


def test_a_route_without_a_scope_does_not_start() -> None:
    async def forgotten() -> None: ...

    with pytest.raises(TypeError, match="requires"):
        GuardedRoute("/v1/forgotten", forgotten)


def test_every_path_of_the_surface_is_described(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    for path in ("/v1/token", "/v1/usage", "/v1/projects", "/v1/keys", "/healthz", "/readyz"):
        assert path in paths
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "422" not in operation["responses"], "wrong bodies are answered with 400"
            if path.startswith("/v1"):
                assert operation["security"]
                assert "application/problem+json" in json.dumps(operation["responses"]), path


async def test_the_pages_need_nothing_from_elsewhere_and_no_inline_script(gateway: Any) -> None:
    async with gateway.client() as client:
        for page in ("/", "/docs"):
            response = await client.get(page)
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert not re.search(r"https?://|<script>|<style|\son\w+=|style=", response.text)
            linked = re.findall(r'(?:src|href)="([^"]+)"', response.text)
            assert linked
            for path in linked:
                assert (await client.get(path)).status_code == 200, path


async def test_the_pages_scripts_never_make_markup_of_text(gateway: Any) -> None:
    async with gateway.client() as client:
        for name in ("console.js", "docs.js"):
            script = (await client.get(f"/console/{name}")).text
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function",
                script,
            )
            assert "localStorage" not in script


async def test_the_description_is_served(gateway: Any) -> None:
    async with gateway.client() as client:
        description = (await client.get("/openapi.json")).json()
    assert description["openapi"].startswith("3.")
    assert "/v1/answers" in description["paths"]
