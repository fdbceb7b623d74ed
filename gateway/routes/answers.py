"""POST /v1/answers: a checked answer with its citations, at once or as it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from citemesh.generation import v1 as generation_v1
from citemesh.usage import v1 as usage_v1
from gateway import problem, sse
from gateway.admission import ANSWER, COMPLETED_SECONDS
from gateway.bodies import AnswerBody
from gateway.endpoint import GuardedRoute, place_of, requires
from gateway.json_response import JsonResponse
from gateway.mesh import mesh_of
from gateway.problem import request_id_of
from gateway.routes.search import filter_message
from meshkit.admission import Place
from meshkit.channel import streaming
from meshkit.errors import (
    BudgetExhausted,
    Cancelled,
    DeadlineExceeded,
    Internal,
    MeshError,
    Unavailable,
)
from meshkit.telemetry import tracing

router = APIRouter(
    prefix="/v1/answers",
    tags=["answers"],
    route_class=GuardedRoute,
    responses=problem.RESPONSES,
)

T = TypeVar("T")
MICRO = 1_000_000


class Citation(TypedDict):
    """A citation and whether its source supports the sentence."""

    marker: str
    chunk_id: str
    document_id: str
    title: str
    page: int
    section: str
    """Sheet with its cells (`Leave!A2:D5`), slide or attachment; empty for other formats."""
    start: int
    """First character of the quote in the extracted text, in Unicode code points."""
    end: int
    quote: str
    supported: bool


class ModelUse(TypedDict):
    """What one model took at one stage."""

    stage: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    estimated: bool
    """Whether the tokens were estimated, because the provider named none."""


class Tokens(TypedDict):
    """Tokens of all models together, and what each of them took."""

    input_tokens: int
    output_tokens: int
    models: list[ModelUse]


class Answer(TypedDict):
    """An answer, complete and checked; also the data of the `done` event."""

    answer_id: str
    conversation_id: str
    answer: str
    citations: list[Citation]
    confidence: str
    model: str
    provider: str
    usage: Tokens
    cost_usd: float
    cache: str
    degraded: list[str]
    timings_ms: dict[str, float]
    started_ms: dict[str, float]
    """When each stage of `timings_ms` began; moments have no beginning."""
    trace_id: str


def _names(enumeration: Any, prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix).lower() for name, number in enumeration.items()}


_CONFIDENCES = _names(generation_v1.Confidence, "CONFIDENCE_")
_CACHES = _names(generation_v1.CacheStatus, "CACHE_STATUS_")


def answer_json(done: generation_v1.DoneEvent) -> Answer:
    """The closing event as REST shows it."""
    return {
        "answer_id": done.answer_id,
        "conversation_id": done.conversation_id,
        "answer": done.answer,
        "citations": [_citation(found) for found in done.citations],
        "confidence": _CONFIDENCES[done.confidence],
        "model": done.model,
        "provider": done.provider,
        "usage": {
            "input_tokens": sum(usage.input_tokens for usage in done.usage),
            "output_tokens": sum(usage.output_tokens for usage in done.usage),
            "models": [_model_use(usage) for usage in done.usage],
        },
        "cost_usd": done.cost_micro_usd / MICRO,
        "cache": _CACHES[done.cache] if done.cache else "none",
        "degraded": list(done.degraded),
        "timings_ms": dict(done.timings_ms),
        "started_ms": dict(done.started_ms),
        "trace_id": done.trace_id,
    }


def _model_use(found: usage_v1.Usage) -> ModelUse:
    return {
        "stage": found.stage,
        "provider": found.provider,
        "model": found.model,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "cost_usd": found.cost_micro_usd / MICRO,
        "estimated": found.estimated,
    }


def _citation(found: generation_v1.Citation) -> Citation:
    return {
        "marker": found.marker,
        "chunk_id": found.chunk_id,
        "document_id": found.document_id,
        "title": found.title,
        "page": found.location.page,
        "section": found.location.section,
        "start": found.location.start,
        "end": found.location.end,
        "quote": found.quote,
        "supported": found.supported,
    }


def _source(found: generation_v1.Source) -> dict[str, Any]:
    return {
        "marker": found.marker,
        "chunk_id": found.chunk_id,
        "document_id": found.document_id,
        "title": found.title,
        "page": found.location.page,
        "heading": " > ".join(found.location.headings),
        "section": found.location.section,
        "score": found.score,
    }


def event_json(event: generation_v1.AnswerEvent, request_id: str) -> tuple[str, Any]:
    """Name and data of an event."""
    name = event.WhichOneof("event") or "error"
    data: Any
    if name == "delta":
        data = {"text": event.delta.text}
    elif name == "sources":
        data = {"sources": [_source(found) for found in event.sources.sources]}
    elif name == "citation":
        data = _citation(event.citation.citation)
    elif name == "done":
        data = answer_json(event.done)
    elif name == "retract":
        found = event.retract
        data = {
            "start": found.start,
            "end": found.end,
            "reason": found.reason,
            "replacement": found.replacement,
        }
    elif name == "provider_switched":
        switched = event.provider_switched
        data = {
            "from_provider": switched.from_provider,
            "to_provider": switched.to_provider,
            "reason": switched.reason,
            "restarted": switched.restarted,
        }
    else:
        data = {
            "reason": event.error.reason or "INTERNAL",
            "detail": event.error.detail,
            "request_id": request_id,
        }
    return name, data


class _Shown:
    """The events of a stream as a client sees them, with the moments its trace is to show."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._place = place_of(request)
        self._begun = False

    def event(self, message: generation_v1.AnswerResponse) -> bytes:
        """A message as an event."""
        name, data = event_json(message.event, request_id_of(self._request))
        if name == "delta" and not self._begun:
            self._begun = True
            tracing.event("first_token")
            if self._place is not None:
                self._place.written()
        elif name == "done":
            sse.complete(self._request)
        elif name == "error":
            sse.ended_by(self._request, _failure(data["reason"], data["detail"]))
        return sse.event(name, data)


_KINDS: dict[str, type[MeshError]] = {
    "BUDGET_EXHAUSTED": BudgetExhausted,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INTERNAL": Internal,
}


def _failure(reason: str, detail: str) -> MeshError:
    """The error that an answer's last event stands for."""
    return _KINDS.get(reason, Unavailable)(reason, detail)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; a client that goes away meanwhile cancels it.

    Raises:
        Cancelled: CLIENT_GONE, which nobody reads, but the log does.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("CLIENT_GONE", "The client went away before the answer was complete.")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(call: Any, place: Place | None) -> generation_v1.DoneEvent:
    """The closing event; the stream is read to its end, so that it counts as completed."""
    done: generation_v1.DoneEvent | None = None
    async with streaming(call):
        async for message in call:
            if place is not None:
                place.answered()
            name = message.event.WhichOneof("event")
            if name == "delta" and place is not None:
                place.written()
            elif name == "done":
                done = message.event.done
            elif name == "error":
                error = message.event.error
                raise _failure(error.reason, error.detail)
    if done is None:
        raise Internal("ANSWER_INCOMPLETE", "The answer ended without its closing event.")
    return done


@router.post(
    "",
    summary="Answer a question",
    responses={
        200: {
            "model": Answer,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "One JSON object; with `stream` events `sources`, `delta`, "
            "`provider_switched`, `citation`, `retract`, then `done` or `error`.",
        }
    },
)
@requires("read", seconds="answer_seconds", kind=ANSWER)
async def answer(request: Request, body: AnswerBody) -> Response:
    """Answers from the project's documents, with citations that were checked."""
    mesh, place = mesh_of(request), place_of(request)
    if place is not None and body.conversation_id:
        place.excuse(COMPLETED_SECONDS)
    call = mesh.generation.Answer(
        generation_v1.AnswerRequest(
            question=body.question,
            conversation_id=body.conversation_id,
            filter=filter_message(body.filter),
            max_tokens=body.max_tokens,
            bypass_cache=body.bypass_cache,
        ),
        timeout=mesh.settings.answer_seconds,
    )
    if not body.stream:
        return JsonResponse(answer_json(await unless_gone(request, _whole(call, place))))
    events = await sse.events(
        call,
        _Shown(request).event,
        request=request,
        keep_alive_seconds=mesh.settings.keep_alive_seconds,
        # An answer under way is finished before the process stops.
        until=asyncio.Event(),
    )
    if place is not None:
        place.answered()
    return sse.EventStream(events)
