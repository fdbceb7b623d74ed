"""The RPCs of generation: messages in, the pipeline, messages out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC
from typing import Any

import grpc

from citemesh.generation import v1 as generation_v1
from citemesh.retrieval import v1 as retrieval_v1
from citemesh.usage import v1 as usage_v1
from meshkit.context import ADMIN, INTERNAL, READ, require_scope
from meshkit.errors import PermissionDenied
from services.generation import measures
from services.generation.answers import (
    CacheStatus,
    Citation,
    Cited,
    Delta,
    Done,
    Event,
    Failed,
    Question,
    Retracted,
    SearchFilter,
    Sources,
    Switched,
)
from services.generation.confidence import Confidence
from services.generation.failover import Serving
from services.generation.language_model import Finished, Message, Prompt, Role
from services.generation.passages import Location, Passage
from services.generation.pipeline import Answerer
from services.generation.store import Store
from services.generation.writing import STAGE, Writing

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_TOKENS = 1024
_CONFIDENCES = {
    Confidence.VERIFIED: generation_v1.CONFIDENCE_VERIFIED,
    Confidence.GROUNDED: generation_v1.CONFIDENCE_GROUNDED,
    Confidence.MIXED: generation_v1.CONFIDENCE_MIXED,
    Confidence.UNGROUNDED: generation_v1.CONFIDENCE_UNGROUNDED,
}
_ROLES = {
    generation_v1.ROLE_USER: Role.USER,
    generation_v1.ROLE_ASSISTANT: Role.ASSISTANT,
}
_CACHES = {
    CacheStatus.NONE: generation_v1.CACHE_STATUS_NONE,
    CacheStatus.EXACT: generation_v1.CACHE_STATUS_EXACT,
    CacheStatus.SEMANTIC: generation_v1.CACHE_STATUS_SEMANTIC,
}


class GenerationServicer(generation_v1.GenerationServiceServicer):
    """Translates between the contract and the pipeline."""

    def __init__(self, answerer: Answerer, store: Store, writing: Writing) -> None:
        self._answerer = answerer
        self._store = store
        self._writing = writing

    async def Answer(
        self, request: generation_v1.AnswerRequest, _context: Context
    ) -> AsyncIterator[generation_v1.AnswerResponse]:
        """Answers a question from the caller's documents."""
        caller = require_scope(READ, INTERNAL)
        async with aclosing(self._answerer.answer(_question(request), caller)) as events:
            async for event in events:
                measures.passed(event)
                yield generation_v1.AnswerResponse(event=_event(event))

    async def Generate(
        self, request: generation_v1.GenerateRequest, _context: Context
    ) -> AsyncIterator[generation_v1.GenerateResponse]:
        """Calls a language model; the local answerer quotes and is none."""
        require_scope(INTERNAL)
        prompt = Prompt(
            request.system,
            tuple(Message(_ROLES[message.role], message.text) for message in request.messages),
        )
        steps = self._writing.write(
            prompt,
            max_tokens=request.max_tokens or _DEFAULT_TOKENS,
            # 0 is what an unset field says; to models that have no such setting it means nothing.
            temperature=request.temperature or None,
            provider=request.provider,
        )
        serving = Serving("", "")
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, Serving):
                    serving = step
                elif isinstance(step, Switched):
                    yield generation_v1.GenerateResponse(provider_switched=_switched(step))
                elif isinstance(step, Finished):
                    yield generation_v1.GenerateResponse(done=_generated(serving, step))
                else:
                    yield generation_v1.GenerateResponse(delta=generation_v1.DeltaEvent(text=step))

    async def RecordFeedback(
        self, request: generation_v1.RecordFeedbackRequest, _context: Context
    ) -> generation_v1.RecordFeedbackResponse:
        """Notes what a user thought of an answer."""
        caller = require_scope(READ, INTERNAL)
        await self._store.feedback(
            caller, request.answer_id, request.rating, request.comment, request.request_id
        )
        return generation_v1.RecordFeedbackResponse()

    async def PurgeProject(
        self, request: generation_v1.PurgeProjectRequest, _context: Context
    ) -> generation_v1.PurgeProjectResponse:
        """Forgets everything of the caller's project."""
        caller = require_scope(ADMIN, INTERNAL)
        if request.project_id != caller.project_id:
            raise PermissionDenied(
                "PROJECT_MISMATCH", "A purge needs a context of the project it removes."
            )
        receipt = await self._store.purge(request.project_id)
        return generation_v1.PurgeProjectResponse(
            answers_removed=receipt.answers, conversations_removed=receipt.conversations
        )


def _question(request: generation_v1.AnswerRequest) -> Question:
    wanted = request.filter
    return Question(
        text=request.question,
        conversation_id=request.conversation_id,
        filter=SearchFilter(
            labels=tuple(sorted(wanted.labels.items())),
            document_ids=tuple(sorted(wanted.document_ids)),
            activated_after=(
                wanted.activated_after.ToDatetime(UTC)
                if wanted.HasField("activated_after")
                else None
            ),
            activated_before=(
                wanted.activated_before.ToDatetime(UTC)
                if wanted.HasField("activated_before")
                else None
            ),
        ),
        max_tokens=request.max_tokens or _DEFAULT_TOKENS,
        bypass_cache=request.bypass_cache,
    )


def _event(event: Event) -> generation_v1.AnswerEvent:
    if isinstance(event, Delta):
        return generation_v1.AnswerEvent(delta=generation_v1.DeltaEvent(text=event.text))
    if isinstance(event, Sources):
        sources = [_source(passage) for passage in event.passages]
        return generation_v1.AnswerEvent(sources=generation_v1.SourcesEvent(sources=sources))
    if isinstance(event, Cited):
        citation = generation_v1.CitationEvent(citation=_citation(event.citation))
        return generation_v1.AnswerEvent(citation=citation)
    if isinstance(event, Switched):
        return generation_v1.AnswerEvent(provider_switched=_switched(event))
    if isinstance(event, Retracted):
        retract = generation_v1.RetractEvent(
            start=event.start, end=event.end, reason=event.reason, replacement=event.replacement
        )
        return generation_v1.AnswerEvent(retract=retract)
    if isinstance(event, Failed):
        error = generation_v1.ErrorEvent(reason=event.reason, detail=event.detail)
        return generation_v1.AnswerEvent(error=error)
    return generation_v1.AnswerEvent(done=_done(event))


def _switched(event: Switched) -> generation_v1.ProviderSwitchedEvent:
    return generation_v1.ProviderSwitchedEvent(
        from_provider=event.from_provider,
        to_provider=event.to_provider,
        reason=event.reason,
        restarted=event.restarted,
    )


def _done(done: Done) -> generation_v1.DoneEvent:
    return generation_v1.DoneEvent(
        answer_id=done.answer_id,
        answer=done.answer,
        citations=[_citation(citation) for citation in done.citations],
        confidence=_CONFIDENCES[done.confidence],
        model=done.model,
        provider=done.provider,
        usage=[
            usage_v1.Usage(
                stage=usage.stage,
                provider=usage.provider,
                model=usage.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_micro_usd=usage.cost_micro_usd,
                estimated=usage.estimated,
            )
            for usage in done.usage
        ],
        cost_micro_usd=done.cost_micro_usd,
        cache=_CACHES[done.cache],
        degraded=done.degraded,
        timings_ms=done.timings_ms,
        started_ms=done.started_ms,
        trace_id=done.trace_id,
        conversation_id=done.conversation_id,
    )


def _generated(serving: Serving, finished: Finished) -> generation_v1.GenerateDone:
    return generation_v1.GenerateDone(
        model=serving.model,
        provider=serving.provider,
        finish_reason=finished.finish.value,
        usage=usage_v1.Usage(
            stage=STAGE,
            provider=serving.provider,
            model=serving.model,
            input_tokens=finished.spent.input_tokens,
            output_tokens=finished.spent.output_tokens,
            cost_micro_usd=finished.spent.cost_micro_usd,
            estimated=finished.spent.estimated,
        ),
    )


def _source(passage: Passage) -> generation_v1.Source:
    chunk = passage.chunk
    return generation_v1.Source(
        marker=passage.marker,
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        title=chunk.title,
        location=_location(chunk.location),
        score=passage.score,
    )


def _citation(citation: Citation) -> generation_v1.Citation:
    return generation_v1.Citation(
        marker=citation.marker,
        chunk_id=citation.chunk_id,
        document_id=citation.document_id,
        title=citation.title,
        location=_location(citation.location),
        quote=citation.quote,
        supported=citation.supported,
    )


def _location(location: Location) -> retrieval_v1.Location:
    return retrieval_v1.Location(
        page=location.page,
        page_end=location.page_end,
        headings=location.headings,
        start=location.start,
        end=location.end,
        section=location.section,
    )
