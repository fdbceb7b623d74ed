"""The answer pipeline over real sockets: a real guardrail, which fails in parts or is of an earlier
release when a test says so, Postgres, and small stand-ins for the neighbours that need models,
because here it matters how each of them fails."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from citemesh.embedding import v1 as embedding_v1
from citemesh.generation import v1 as generation_v1
from citemesh.guardrail import v1 as guardrail_v1
from citemesh.rerank import v1 as rerank_v1
from citemesh.retrieval import v1 as retrieval_v1
from citemesh.usage import v1 as usage_v1
from meshkit import context
from meshkit.channel import streaming
from meshkit.database.pool import Database
from meshkit.errors import Busy, Unavailable
from meshkit.identity import Signer
from meshkit.server import Server
from meshkit.settings import ServiceSettings
from meshkit.usage import Budget
from services.generation.calibration import NOBODY, Calibration
from services.generation.confidence import Ballot, Vote
from services.guardrail.servicer import GuardrailServicer
from services.guardrail.settings import GuardrailSettings

LEAVE = "Employees have thirty days of annual leave. Unused leave expires in March."
TRAVEL = "Train tickets are booked by the office. Write to ann.smith@example.org for help."


BALLOT = Ballot(
    bias=0.0,
    votes={"evidence": Vote(1.0, -4.0, 1.0), "similarity": Vote(1.0, 0.5, 0.2)},
    answer=0.5,
    verified=0.95,
)
CALIBRATIONS = [
    Calibration("local/ce", "local/m@2", True, BALLOT, (), "", ""),
    Calibration(NOBODY, "local/m@2", True, replace(BALLOT, verified=1.1), (), "", ""),
]
"""What the stand-ins' scores mean."""


@dataclass
class World:
    """What the stand-ins answer, and what they were asked."""

    chunks: list[tuple[str, str, list[str]]] = field(default_factory=list)
    """Document, text and flags."""
    failing: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    epoch: int = 1
    states_told: int = 0
    """How often the state of the corpus alone was asked for."""
    searches: list[Any] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)
    """RPCs of the guardrail, in the order of their calls."""
    without_quotes: bool = False
    """Whether the guardrail is of the release that took no quotes with the grounding."""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self, name: str) -> None:
        if name in self.failing:
            raise Unavailable("SERVICE_UNAVAILABLE", "Gone.")
        if name in self.busy:
            raise Busy("SERVICE_BUSY", "At its limit.", retry_after=2.0)
        if name in self.slow:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise


class Embedding(embedding_v1.EmbeddingServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def Embed(self, request: Any, _context: Any) -> embedding_v1.EmbedResponse:
        await self._world.pass_through("embedding")
        usage = usage_v1.Usage(stage="embed", provider="local", model="m", input_tokens=7)
        vectors = [embedding_v1.Vector(values=[1.0, 0.0])]
        return embedding_v1.EmbedResponse(vectors=vectors, space="local/m@2", usage=usage)


class Retrieval(retrieval_v1.RetrievalServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def GetCorpusState(
        self, _request: Any, _context: Any
    ) -> retrieval_v1.GetCorpusStateResponse:
        await self._world.pass_through("retrieval")
        self._world.states_told += 1
        return retrieval_v1.GetCorpusStateResponse(corpus_epoch=self._world.epoch)

    async def Search(self, request: Any, _context: Any) -> retrieval_v1.SearchResponse:
        await self._world.pass_through("retrieval")
        self._world.searches.append(request)
        hits = []
        for place, (document, text, flags) in enumerate(self._world.chunks, start=1):
            chunk = retrieval_v1.StoredChunk(
                chunk_id=f"{document}.1.0",
                document_id=document,
                version=1,
                title="Handbook",
                text=text,
                flags=flags,
                location=retrieval_v1.Location(page=2, page_end=2, end=len(text)),
            )
            signals = retrieval_v1.Signals(dense_rank=1, dense_similarity=0.8, lexical_rank=1)
            hits.append(retrieval_v1.Hit(chunk=chunk, score=1 / place, signals=signals))
        return retrieval_v1.SearchResponse(
            hits=hits, corpus_epoch=self._world.epoch, space="local/m@2"
        )


class Rerank(rerank_v1.RerankServiceServicer):
    """Scores by shared words, on the scale of the real model."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def Rerank(self, request: Any, _context: Any) -> rerank_v1.RerankResponse:
        await self._world.pass_through("rerank")
        wanted = set(request.query.lower().strip("?").split())
        results = []
        for index, passage in enumerate(request.passages):
            self._world.scored.append(passage.text)
            shared = len(wanted & set(passage.text.lower().replace(".", "").split()))
            results.append(rerank_v1.RerankResult(id=passage.id, index=index, logit=shared * 4 - 7))
        usage = usage_v1.Usage(stage="rerank", provider="local", model="ce", input_tokens=90)
        return rerank_v1.RerankResponse(results=results, complete=True, usage=usage)


class Guardrail(GuardrailServicer):
    """The real one, told when to fail and of which release to be."""

    def __init__(self, world: World) -> None:
        super().__init__(GuardrailSettings())
        self._world = world

    async def FilterOutput(self, request_iterator: Any, context: Any) -> Any:
        # The first one is for the answer itself.
        again = "FilterOutput" in self._world.guarded
        self._world.guarded.append("FilterOutput")
        if again:
            await self._world.pass_through("filtering again")
        async for response in super().FilterOutput(request_iterator, context):
            yield response

    async def CheckGrounding(
        self, request: guardrail_v1.CheckGroundingRequest, context: Any
    ) -> guardrail_v1.CheckGroundingResponse:
        self._world.guarded.append("CheckGrounding")
        await self._world.pass_through("grounding")
        if self._world.without_quotes:
            request.ClearField("quotes")
        return await super().CheckGrounding(request, context)


class Plain(ServiceSettings, service="tests"):
    """Settings of the stand-ins."""


@dataclass
class Mesh:
    """Running servers and the way to them."""

    world: World
    stub: Any
    guardrail: Server
    to_guardrail: Any
    signer: Signer
    database: Database
    budget: Budget


@dataclass
class Caller:
    project: str
    mesh: Mesh

    def signed(self, scopes: tuple[str, ...] = ("read",), who: str = "user:ann") -> Any:
        return self.mesh.signer.sign(
            project_id=self.project,
            principals=[who],
            scopes=scopes,
            subject=f"key:{who}",
            request_id="req_1",
        )

    async def ask(self, question: str, *, who: str = "user:ann", **more: Any) -> list[Any]:
        request = generation_v1.AnswerRequest(question=question, **more)
        with context.acting_as(self.signed(who=who)):
            async with streaming(self.mesh.stub.Answer(request, timeout=10)) as call:
                return [response.event async for response in call]


def kinds(events: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in events]


QUESTION = "How many days of annual leave do employees have?"
HELP = "Whom do I write for help with train tickets?"
SHOWN = ["Train tickets are booked by the office.", "Write to [redacted: email] for help."]
"""The quotes beside its answer; the first stands in it."""
