"""The application: routes, errors as problems, and what is around them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from gateway import problem
from gateway.direct import Direct
from gateway.edge import Edge
from gateway.mesh import Slot
from gateway.routes import (
    answers,
    documents,
    feedback,
    health,
    keys,
    pages,
    projects,
    providers,
    search,
    tokens,
    usage,
)
from gateway.security import Cors
from gateway.settings import GatewaySettings, words

# Routes are tried in this order: the one where every microsecond counts comes first.
ROUTERS = (
    search.router,
    answers.router,
    documents.router,
    feedback.router,
    tokens.router,
    usage.router,
    projects.router,
    keys.router,
    providers.router,
    health.router,
    pages.router,
)


class Api(FastAPI):
    """FastAPI that describes what this application does, not what FastAPI would do."""

    def openapi(self) -> dict[str, Any]:
        """The description of the interface, made once."""
        if self.openapi_schema is None:
            described = super().openapi()
            components = described["components"]
            # What FastAPI answers to a wrong body; here that is a problem of status 400.
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path, operations in described["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if path.startswith("/v1"):
                        operation["security"] = [{"bearer": []}]
        assert self.openapi_schema is not None
        return self.openapi_schema


def create_app(settings: GatewaySettings, slot: Slot) -> FastAPI:
    """The application; it serves 503 under /v1 until `slot.mesh` is set."""
    app = Api(
        title="citemesh",
        version="1",
        summary="Answers from an organisation's own documents, with citations that were checked.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The edge has span and metric of a request. FastAPI's own would be a second of
        # each, and its log records carry the text of exceptions.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.slot = slot
    problem.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(Direct, route=search.DIRECT)
    origins = words(settings.allowed_origins)
    if origins:
        app.add_middleware(Cors, origins=origins)
    app.add_middleware(
        Edge,
        max_body_bytes=settings.max_body_bytes,
        https_only=settings.https_only,
        readiness=slot.readiness,
    )
    return app
