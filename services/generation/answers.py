"""What an answer consists of, and the events it arrives in. Plain values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from services.generation.confidence import Ballot, Confidence
from services.generation.passages import Chunk, Location, Passage


class CacheStatus(Enum):
    """Where an answer came from."""

    NONE = "none"
    EXACT = "exact"
    SEMANTIC = "semantic"


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Restricts a search; all given conditions must hold."""

    labels: tuple[tuple[str, str], ...] = ()
    """Labels the document must carry, sorted."""
    document_ids: tuple[str, ...] = ()
    """Documents to search in, sorted; empty means all."""
    activated_after: datetime | None = None
    activated_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    text: str
    conversation_id: str = ""
    filter: SearchFilter = SearchFilter()
    max_tokens: int = 1024
    bypass_cache: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model consumed."""

    stage: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Quote:
    """Words of a source that a generator built on."""

    marker: str
    chunk: Chunk
    text: str
    """Verbatim characters of the chunk."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A citation in the answer, checked."""

    marker: str
    chunk_id: str
    document_id: str
    title: str
    location: Location
    quote: str
    supported: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """What a generator says at the end of its text."""

    quotes: tuple[Quote, ...]
    """Quotes in the order of the text; empty when it does not quote."""
    abstained: bool
    """Whether the text says that the sources do not answer."""
    usage: tuple[Usage, ...] = ()
    degraded: tuple[str, ...] = ()
    """Stages that were missing, such as `rerank`."""
    provider: str = ""
    """Who wrote it; empty means the generator's own provider and model."""
    model: str = ""
    support: float | None = None
    """Probability by vote that the sources answer the question; None when nobody voted."""
    ballot: Ballot | None = None
    """How the votes were counted."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a search spent time on."""

    name: str
    began: float
    """On the clock of `time.perf_counter`."""
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search returned."""

    passages: tuple[Passage, ...]
    degraded: tuple[str, ...]
    corpus_epoch: int
    usage: tuple[Usage, ...] = ()
    steps: tuple[Step, ...] = ()
    """Of a single search; of several side by side none."""
    neighbours: Mapping[str, Chunk] | None = None
    """Chunks beside the hits, by id; None where they were not asked for or did not come."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Judgement of one sentence of an answer."""

    start: int
    end: int
    supported: bool
    markers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grounding:
    """Judgement of an answer."""

    sentences: tuple[Sentence, ...]
    groundedness: float
    """Share of supported sentences, 0 to 1."""
    quotes: tuple[str, ...] = ()
    """The quotes beside the answer as they may be shown, in the order in which they were given;
    none from a guardrail of an earlier release."""


# Events, in the order of the contract.


@dataclass(frozen=True, slots=True)
class Sources:
    """What was found and may be cited."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Switched:
    """A provider failed in the middle of its text, and another goes on."""

    from_provider: str
    to_provider: str
    reason: str
    """Of the failure, such as `PROVIDER_OVERLOADED`."""
    restarted: bool = False
    """Whether the text so far is void."""


@dataclass(frozen=True, slots=True)
class Retracted:
    """Text that is taken back."""

    start: int
    """First character, in the text sent so far."""
    end: int
    reason: str
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation that was checked."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete."""

    answer_id: str
    answer: str
    citations: tuple[Citation, ...]
    confidence: Confidence
    model: str
    provider: str
    usage: tuple[Usage, ...]
    cache: CacheStatus
    degraded: tuple[str, ...]
    timings_ms: dict[str, float] = field(default_factory=dict)
    started_ms: dict[str, float] = field(default_factory=dict)
    """When each stage of `timings_ms` began; moments have no beginning."""
    trace_id: str = ""
    conversation_id: str = ""

    @property
    def cost_micro_usd(self) -> int:
        """Cost of all stages together, in millionths of a dollar."""
        return sum(usage.cost_micro_usd for usage in self.usage)

    def again(self, answer_id: str) -> "Done":
        """The same answer, served from the cache under a name of its own."""
        return replace(self, answer_id=answer_id, usage=(), cache=CacheStatus.EXACT)


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends here without being complete."""

    reason: str
    detail: str


Event = Sources | Delta | Switched | Retracted | Cited | Done | Failed
