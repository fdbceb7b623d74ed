"""The way of a question to a checked answer.

    reserve -> check the question -> embed | exact cache -> search -> write -> filter
            -> ground -> confidence -> remember -> settle

Every stage has a share of the time that is left and a way to do without, named in `degraded`.
Two have none: when the guardrail or the budget cannot be asked, there is no answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from meshkit import telemetry
from meshkit.context import RequestContext
from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.logging import logger
from meshkit.usage import Budget, Spend
from services.generation import citations, confidence, scoped_search, surrounding
from services.generation.answer_cache import AnswerCache, Asked, Kept
from services.generation.answers import (
    CacheStatus,
    Citation,
    Cited,
    Delta,
    Done,
    Draft,
    Event,
    Failed,
    Found,
    Grounding,
    Question,
    Quote,
    Sources,
    Usage,
)
from services.generation.calls.finding import FindingCalls, QueryVector
from services.generation.calls.guardrail import GuardrailCalls
from services.generation.confidence import Checked, Confidence
from services.generation.failover import LanguageModels
from services.generation.generator import Generator
from services.generation.passages import Chunk
from services.generation.rewriting import TURNS, Rewriting
from services.generation.stopwatch import FIRST_TOKEN, TOTAL, Stopwatch
from services.generation.store import Store
from services.generation.telling import Telling

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """The knobs of the pipeline."""

    seconds: float = 30.0
    """Time an answer has when its caller sets no deadline."""
    passages: int = 8
    """Passages an answer is made from."""
    prompt_tokens: int = 0
    """Most tokens of sources for a language model; 0 where none reads them."""
    rewrite_seconds: float = 3.0
    """Longest wait for a follow-up question to be completed."""
    release: str = "stream"
    """When text leaves the filter: `stream`, `sentence` or `whole`."""
    keeps_sentences: bool = True
    """Whether whole sentences stay when another model goes on in the middle of an answer."""
    use_cache: bool = True
    similarity: float = 0.0
    """Cosine from which a question may be given the answer to another one; 0 never."""


@dataclass(slots=True)
class _Work:
    """What is known about an answer under way."""

    question: Question
    searched: str
    watch: Stopwatch
    caller: RequestContext
    spend: Spend
    """Told what calls to a language model took."""
    vector: QueryVector | None = None
    """The question's, once it is known."""
    text: str = ""
    draft: Draft | None = None
    usage: list[Usage] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)

    @property
    def asked(self) -> Asked:
        """What an answer is kept under."""
        return Asked(self.question, self.searched, self.caller)


class Answerer:
    """Answers questions; safe for any number at once."""

    def __init__(
        self,
        *,
        guardrail: GuardrailCalls,
        finding: FindingCalls,
        generator: Generator,
        store: Store,
        budget: Budget,
        rewriting: Rewriting | None = None,
        policy: AnswerPolicy = AnswerPolicy(),
    ) -> None:
        self._guardrail = guardrail
        self._finding = finding
        self._generator = generator
        self._store = store
        self._budget = budget
        self._policy = policy
        self._cache = AnswerCache(
            store,
            finding,
            f"{generator.provider}/{generator.model}",
            similarity=policy.similarity,
        )
        self._rewriting = rewriting or Rewriting(LanguageModels([], first_word_seconds=1), budget)

    async def answer(
        self, question: Question, caller: RequestContext
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer.

        Raises:
            MeshError: before the first event; afterwards a failure is the last event.
        """
        watch = Stopwatch(self._policy.seconds)
        estimate = self._generator.estimate_micro_usd(question.text, question.max_tokens)
        async with (
            self._budget.spend(
                estimate_micro_usd=estimate,
                stage="generate",
                provider=self._generator.provider,
                model=self._generator.model,
            ) as spend,
            aclosing(self._events(question, caller, watch, spend)) as events,
        ):
            async for event in events:
                yield event

    async def _events(
        self, question: Question, caller: RequestContext, watch: Stopwatch, spend: Spend
    ) -> AsyncGenerator[Event, None]:
        work = await self._begin(question, caller, watch, spend)
        embedding = asyncio.create_task(self._embed(work))
        try:
            kept = await self._cached(work, embedding)
            vector = None if kept is not None else await embedding
        finally:
            embedding.cancel()
            await asyncio.gather(embedding, return_exceptions=True)
        if kept is not None:
            async with aclosing(self._again(work, kept)) as events:
                async for event in events:
                    yield event
            return
        work.vector = vector
        with watch.stage("search"):
            found = await scoped_search.find(
                self._finding,
                work.searched,
                vector,
                work.question.filter,
                passages=self._policy.passages,
                bypass_cache=work.question.bypass_cache,
                seconds=watch.share(0.5, 5.0),
                neighbours=bool(self._policy.prompt_tokens),
            )
        watch.inside("search", found.steps)
        work.usage += found.usage
        work.degraded += found.degraded
        await self._cache.saw(caller.project_id, found.corpus_epoch)
        if self._policy.prompt_tokens:
            found = await self._for_a_prompt(work, found)
        yield Sources(found.passages)
        try:
            async with aclosing(self._written(work, found)) as events:
                async for event in events:
                    yield event
        except MeshError as error:
            log.warning("answer failed", reason=error.reason)
            yield Failed(error.reason, error.detail)

    async def _for_a_prompt(self, work: _Work, found: Found) -> Found:
        """What a language model is to read: hits with their neighbours, sized to the question."""
        tokens = surrounding.room(work.searched, self._policy.prompt_tokens)
        hits = surrounding.fitting(found.passages, tokens)
        names = surrounding.wanted(hits)
        chunks: Mapping[str, Chunk] = found.neighbours or {}
        if names and found.neighbours is None:
            with work.watch.stage("neighbours"):
                try:
                    chunks = await self._finding.chunks(names, seconds=work.watch.share(0.2, 1.0))
                except MeshError as error:
                    # The hits are whole passages; they only read better with what surrounds them.
                    log.warning("sources without their neighbours", reason=error.reason)
        return replace(found, passages=surrounding.surrounded(hits, names, chunks, tokens))

    async def _begin(
        self, question: Question, caller: RequestContext, watch: Stopwatch, spend: Spend
    ) -> _Work:
        """Checks the question and completes a follow-up with its conversation."""
        with watch.stage("guard_input"):
            text = await self._guardrail.check(question.text, seconds=watch.share(0.3, 2.0))
        if text != question.text:
            question = replace(question, text=text)
        work = _Work(question, text, watch, caller, spend)
        if question.conversation_id:
            before = await self._store.searched_before(caller, question.conversation_id, TURNS)
            with watch.stage("rewrite"):
                completed = await self._rewriting.complete(
                    text, before, seconds=watch.share(0.2, self._policy.rewrite_seconds)
                )
            work.searched = completed.text
            work.usage += completed.usage
            work.degraded += completed.degraded
        return work

    async def _embed(self, work: _Work) -> QueryVector | None:
        """The question's vector; None lets the search go by words only."""
        with work.watch.stage("embed"):
            try:
                vector = await self._finding.embed(
                    work.searched,
                    bypass_cache=work.question.bypass_cache,
                    seconds=work.watch.share(0.2, 2.0),
                )
            except MeshError as error:
                log.warning("searching without a vector", reason=error.reason)
                return None
        work.usage += vector.usage
        return vector

    async def _cached(
        self, work: _Work, embedding: asyncio.Task[QueryVector | None]
    ) -> Kept | None:
        """An answer given before over the same corpus: to this question, or to one alike."""
        if not self._uses_cache(work):
            return None
        with work.watch.stage("cache"):
            return await self._cache.look(work.asked, embedding, seconds=work.watch.share(0.1, 1.0))

    def _uses_cache(self, work: _Work) -> bool:
        return self._policy.use_cache and not work.question.bypass_cache

    async def _again(self, work: _Work, kept: Kept) -> AsyncGenerator[Event, None]:
        """The events of an answer that was kept."""
        yield kept.sources
        work.watch.mark(FIRST_TOKEN)
        yield Delta(kept.done.answer)
        for citation in kept.done.citations:
            yield Cited(citation)
        work.text = kept.done.answer
        work.draft = Draft((), False, provider=kept.done.provider, model=kept.done.model)
        yield await self._finished(work, kept.done.citations, kept.done.confidence, kept.cache)

    # Writing and checking.

    async def _written(self, work: _Work, found: Found) -> AsyncGenerator[Event, None]:
        watch = work.watch
        held = self._policy.release == "whole"
        telling = Telling(
            self._generator,
            self._guardrail,
            release=self._policy.release,
            seconds=self._policy.seconds,
            keeps=self._policy.keeps_sentences,
        )
        events = telling.events(
            work.searched,
            found.passages,
            max_tokens=work.question.max_tokens,
            watch=watch,
            spend=work.spend,
        )
        with watch.stage("generate"):
            async with aclosing(events):
                async for event in events:
                    if not held:
                        if isinstance(event, Delta):
                            watch.mark(FIRST_TOKEN)
                        yield event
        work.text = telling.text
        draft = work.draft = telling.draft
        assert draft is not None  # its events end without an error only after the last piece
        work.usage += draft.usage
        work.degraded += [stage for stage in draft.degraded if stage not in work.degraded]
        quotes = citations.quotes_of(work.text, found.passages, draft.quotes)
        fresh = citations.unfiltered(quotes, work.text)
        grounding = None if draft.abstained else await self._ground(work, found, quotes, fresh)
        shown = await self._shown(work, fresh, grounding)
        if held:
            watch.mark(FIRST_TOKEN)
            yield Delta(work.text)
        checked = await self._citations(work, quotes, shown, grounding)
        for citation in checked:
            yield Cited(citation)
        judged = confidence.judge(
            Checked(
                abstained=draft.abstained,
                groundedness=grounding.groundedness if grounding else None,
                support=draft.support,
                ballot=draft.ballot,
                degraded=work.degraded,
            )
        )
        # Of two models' making, it is not what the same question would be answered next time.
        again = self._uses_cache(work) and not telling.switches
        yield await self._finished(
            work, checked, judged, CacheStatus.NONE, kept_over=found if again else None
        )

    async def _ground(
        self, work: _Work, found: Found, quotes: list[Quote], fresh: list[str]
    ) -> Grounding | None:
        """Judgement of the whole answer; None, and degraded, when there is none."""
        with work.watch.stage("grounding"):
            try:
                return await self._guardrail.ground(
                    work.text,
                    citations.sources_of(quotes, found.passages),
                    work.searched,
                    fresh,
                    seconds=work.watch.share(0.5, 2.0),
                )
            except MeshError as error:
                log.warning("answer not checked", reason=error.reason)
                work.degraded.append("grounding")
                return None

    async def _shown(
        self, work: _Work, fresh: list[str], grounding: Grounding | None
    ) -> dict[str, str]:
        """What may be shown of each fresh quote: it passes the same filter as the answer.

        The grounding brought it along, unless there is none or its guardrail is of an earlier
        release.

        Raises:
            Unavailable: GUARDRAIL_UNAVAILABLE.
        """
        if grounding is not None and len(grounding.quotes) == len(fresh):
            shown = grounding.quotes
        else:
            seconds = work.watch.share(0.5, 2.0)
            shown = tuple(await self._guardrail.redacted(fresh, seconds=seconds))
        return dict(zip(fresh, shown, strict=True))

    async def _citations(
        self,
        work: _Work,
        quotes: list[Quote],
        shown: dict[str, str],
        grounding: Grounding | None,
    ) -> tuple[Citation, ...]:
        """Citations with their pages; `shown` has every quote that the answer does not show."""
        unknown = [quote for quote in quotes if len(set(citations.pages(quote))) > 1]
        others: dict[str, Chunk] = {}
        if unknown:
            ids = sorted({name for quote in unknown for name in citations.beside(quote.chunk)})
            try:
                others = await self._finding.chunks(ids, seconds=work.watch.share(0.3, 1.0))
            except MeshError as error:
                # The citation then names both pages.
                log.warning("page not resolved", reason=error.reason)
        return citations.cite(
            quotes,
            [citations.locate(quote, others) for quote in quotes],
            [shown.get(quote.text, quote.text) for quote in quotes],
            citations.supported(work.text, grounding.sentences if grounding else ()),
        )

    async def _finished(
        self,
        work: _Work,
        checked: tuple[Citation, ...],
        judged: Confidence,
        cache: CacheStatus,
        *,
        kept_over: Found | None = None,
    ) -> Done:
        """The closing event, remembered before it is sent, so that feedback finds it.

        With `kept_over`, what was found, it is kept to be served again.
        """
        done = Done(
            answer_id=new_id("ans"),
            answer=work.text,
            citations=checked,
            confidence=judged,
            model=(work.draft and work.draft.model) or self._generator.model,
            provider=(work.draft and work.draft.provider) or self._generator.provider,
            usage=() if cache is CacheStatus.EXACT else tuple(work.usage),
            cache=cache,
            degraded=tuple(dict.fromkeys(work.degraded)),
            timings_ms=work.watch.timings_ms,
            started_ms=work.watch.started_ms,
            trace_id=telemetry.current_trace_id(),
            conversation_id=work.question.conversation_id,
        )
        entry = None
        if kept_over is not None:
            entry = self._cache.entry(
                work.asked, kept_over.corpus_epoch, work.vector, Sources(kept_over.passages), done
            )
        try:
            await self._store.record(work.caller, work.question.text, work.searched, done, entry)
        except MeshError as error:
            # The answer is complete and checked; only feedback on it will find nothing, and the
            # same question will be answered anew.
            log.warning("answer not recorded", answer_id=done.answer_id, reason=error.reason)
        work.watch.mark(TOTAL)
        return done
