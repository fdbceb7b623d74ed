"""The simulator's routes: the three providers' and, below `/_simulator`, its own."""

from __future__ import annotations

import json
from types import ModuleType

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from loadtest.simulator import anthropic, cohere, gemini
from loadtest.simulator.call import Call
from loadtest.simulator.commands import Commands
from loadtest.simulator.faults import Fault, FaultKind
from loadtest.simulator.reply import Body, Reply
from loadtest.simulator.world import World

REFUSALS = frozenset(
    {
        FaultKind.RATE_LIMITED,
        FaultKind.QUOTA_EXHAUSTED,
        FaultKind.KEY_LEAKED,
        FaultKind.KEY_INVALID,
        FaultKind.NO_CREDIT,
        FaultKind.SERVER_ERROR,
        FaultKind.OVERLOADED,
        FaultKind.INVALID_REQUEST,
        FaultKind.MODEL_UNKNOWN,
    }
)
"""Faults that are the answer, unless a stream has begun."""


def build(world: World) -> Starlette:
    """The application over a world."""
    return Starlette(
        routes=[
            Mount("/gemini", routes=[_route(world, gemini, "/{version}/models/{action}")]),
            Mount("/cohere", routes=[_route(world, cohere, "/v2/{action}")]),
            Mount("/anthropic", routes=[_route(world, anthropic, "/v1/messages")]),
            Mount("/_simulator", routes=Commands(world).routes()),
            Route("/readyz", _ready),
        ]
    )


async def _ready(_request: Request) -> Response:
    return JSONResponse({"status": "ready"})


def _route(world: World, wire: ModuleType, path: str) -> Route:
    async def endpoint(request: Request) -> ASGIApp:
        try:
            content = await request.json()
        except json.JSONDecodeError:
            content = {}
        call: Call = wire.call_of(request, content)
        client = request.client
        record = world.begin(call, f"{client.host}:{client.port}" if client else "")
        now = world.now()
        refused: Body | None = wire.key_error(call.key)
        fault: Fault | None = None
        if refused is None:
            exceeded = world.quotas.take(call, now)
            refused = wire.exceeded(exceeded, call.model) if exceeded else None
        if refused is None:
            fault = world.faults.pick(call, now)
            refused = _refusal(wire, call, fault)
        if refused is not None:
            record.fault = fault.kind if fault else ""
            record.end("refused")
            return Reply(world, record, refused, None)
        record.fault = fault.kind if fault else ""
        answer = wire.answer(world, record, content, fault)
        return Reply(world, record, answer, fault)

    return Route(path, endpoint, methods=["POST"])


def _refusal(wire: ModuleType, call: Call, fault: Fault | None) -> Body | None:
    """The answer of a fault that is one; None when the call gets an answer first."""
    if fault is None or (call.streams and fault.after > 0):
        return None
    alone = fault.kind is FaultKind.BLOCKED and wire is cohere
    if fault.kind not in REFUSALS and not alone:
        return None
    body: Body = wire.refusal(fault.kind, fault.retry_after, call.model)
    return body
