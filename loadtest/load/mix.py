"""What users do: a stream of actions, drawn from the files beside this one. Pure.

Topics are popular by Zipf's law; a share of the questions is worded as never before;
follow-ups lean on a conversation that was answered; deletes name what was uploaded.
"""

from __future__ import annotations

import random
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path

HERE = Path(__file__).parent
QUESTIONS = frozenset({"ask", "ask_whole", "follow_up", "grpc"})
"""Kinds that get an answer, with citations to judge."""
FOLLOW_UP = "follow_up"
KINDS = QUESTIONS | {"search", "upload", "delete"}
REMEMBERED = 200
"""Conversations that may be continued, documents that may be deleted."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What one document says, and what is asked about it."""

    title: str
    text: str
    questions: tuple[str, ...]
    follow_up: str

    @property
    def document(self) -> bytes:
        """The document as it is uploaded: Markdown."""
        return f"# {self.title}\n\n{self.text.strip()}\n".encode()


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the numbers are held to."""

    first_token_p95_ms: float
    """To the first text of an answer; a search is held to it as a whole."""
    follow_up_first_token_p95_ms: float
    total_p95_ms: float
    error_share: float

    def first_ms(self, kind: str) -> float:
        """Milliseconds to the first text that a kind of question is promised."""
        return self.follow_up_first_token_p95_ms if kind == FOLLOW_UP else self.first_token_p95_ms


@dataclass(frozen=True)
class Mix:
    """Shares of kinds, and how questions are chosen."""

    kinds: Mapping[str, float]
    zipf: float
    fresh: float
    slo: Objectives
    topics: tuple[Topic, ...]

    @cached_property
    def popularity(self) -> list[float]:
        """Cumulated weights of the topics, the most popular first."""
        return list(accumulate(rank**-self.zipf for rank in range(1, len(self.topics) + 1)))

    def only(self, kind: str, fresh: float) -> Mix:
        """The same questions, asked in one way only."""
        return Mix({kind: 1.0}, self.zipf, fresh, self.slo, self.topics)

    def without(self, *kinds: str) -> Mix:
        """The same mix without some kinds."""
        kept = {kind: share for kind, share in self.kinds.items() if kind not in kinds}
        return Mix(kept, self.zipf, self.fresh, self.slo, self.topics)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a user does."""

    kind: str
    question: str = ""
    topic: str = ""
    """Title of the right document."""
    conversation: str = ""
    content: bytes = b""
    """Of an upload."""
    target: str = ""
    """Document to delete."""


def load_mix(folder: Path = HERE) -> Mix:
    """The mix and the topics of two files.

    Raises:
        ValueError: a kind that nobody knows, or shares that are not shares.
    """
    values = tomllib.loads((folder / "mix.toml").read_text())
    topics = tomllib.loads((folder / "topics.toml").read_text())["topic"]
    kinds: dict[str, float] = values["kinds"]
    unknown = sorted(set(kinds) - KINDS)
    if unknown or abs(sum(kinds.values()) - 1) > 1e-6:
        raise ValueError(f"mix.toml: unknown {unknown}" if unknown else "mix.toml: not 1 in all")
    return Mix(
        kinds,
        values["questions"]["zipf"],
        values["questions"]["fresh"],
        Objectives(**values["slo"]),
        tuple(
            Topic(each["title"], each["text"], tuple(each["questions"]), each["follow_up"])
            for each in topics
        ),
    )


@dataclass(slots=True)
class Actions:
    """Draws one user population's actions; the same for the same seed and course of events.

    Args:
        mix: What is done how often.
        seed: Of the drawing.
    """

    mix: Mix
    seed: int
    _chance: random.Random = field(init=False)
    _conversations: deque[tuple[str, int]] = field(init=False)
    _uploaded: deque[str] = field(init=False)
    _number: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._conversations = deque(maxlen=REMEMBERED)
        self._uploaded = deque(maxlen=REMEMBERED)

    def next(self) -> Action:
        """The next action; one that has nothing to act on yet becomes a question."""
        self._number += 1
        (kind,) = self._chance.choices(list(self.mix.kinds), list(self.mix.kinds.values()))
        if kind == "upload":
            return Action(kind, content=self._note())
        if kind == "delete" and self._uploaded:
            return Action(kind, target=self._uploaded.popleft())
        if kind == "follow_up" and self._conversations:
            conversation, place = self._conversations.popleft()
            topic = self.mix.topics[place]
            return Action(kind, topic.follow_up, topic.title, conversation)
        return self._question(kind if kind not in ("delete", "follow_up") else "ask")

    def _question(self, kind: str) -> Action:
        (place,) = self._chance.choices(
            range(len(self.mix.topics)), cum_weights=self.mix.popularity
        )
        topic = self.mix.topics[place]
        question = self._chance.choice(topic.questions)
        if self._chance.random() < self.mix.fresh:
            question = f"{question} ({self.seed}-{self._number})"
        conversation = ""
        if kind in ("ask", "grpc") and self.mix.kinds.get("follow_up"):
            conversation = f"load-{self.seed}-{self._number}"
        return Action(kind, question, topic.title, conversation)

    def _note(self) -> bytes:
        return note(f"{self.seed}-{self._number}", self._chance)

    def answered(self, action: Action) -> None:
        """Notes that an answer came, so that its conversation can go on."""
        if action.conversation and action.kind in ("ask", "grpc"):
            place = next(
                at for at, topic in enumerate(self.mix.topics) if topic.title == action.topic
            )
            self._conversations.append((action.conversation, place))

    def uploaded(self, document: str) -> None:
        """Notes a document that may be deleted later."""
        self._uploaded.append(document)


_SUBJECTS = ("The quay", "Hall C", "The yard", "A contractor", "The night shift", "Berth two")
_VERBS = ("received", "inspected", "repaired", "counted", "returned", "ordered")
_OBJECTS = ("pallets", "mooring lines", "light fittings", "fenders", "filters", "signal lamps")


def note(name: str, chance: random.Random, sentences: int = 12) -> bytes:
    """A delivery note like no other: about what no topic is about."""
    lines = [
        f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.randrange(2, 900)}"
        f" {chance.choice(_OBJECTS)} under order {chance.randrange(10**6):06d}."
        for _ in range(sentences)
    ]
    return f"# Delivery note {name}\n\n{' '.join(lines)}\n".encode()


def notes(count: int, seed: int) -> Sequence[bytes]:
    """Documents to fill the corpus with."""
    chance = random.Random(seed)
    return [note(f"{seed}-{number}", chance) for number in range(count)]
