"""Every adapter of a provider's API, pointed at the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from meshkit.providers import anthropic, catalogue, cohere, gemini
from meshkit.providers.breakers import Breakers
from meshkit.providers.catalogue import Model, Operation
from meshkit.providers.errors import Target
from meshkit.providers.gate import Gate
from meshkit.providers.settings import Access
from meshkit.resilience.breaker import Policy
from services.embedding.cohere import CohereEmbedder
from services.embedding.embedder import Embedder, Task
from services.embedding.gemini import GeminiEmbedder
from services.embedding.spaces import parse_name
from services.generation.language_model import (
    Finished,
    LanguageModel,
    Message,
    Prompt,
    Role,
)
from services.generation.models.anthropic import AnthropicModel
from services.generation.models.cohere import CohereModel
from services.generation.models.gemini import GeminiModel
from services.generation.rhythm import Rhythm
from services.rerank.cohere import CohereReranker
from services.rerank.reranker import Reranker

KNOWN = catalogue.load()
SPACES = {"gemini": "gemini/gemini-embedding-001@768", "cohere": "cohere/embed-v5.0-fast@512"}
TARGETS = [
    ("gemini", "embed"),
    ("cohere", "embed"),
    ("cohere", "rerank"),
    ("gemini", "generate"),
    ("cohere", "generate"),
    ("anthropic", "generate"),
]
"""Every pair of provider and operation there is."""
PROMPT = Prompt(
    'Answer from the sources. If they say nothing, reply with exactly: "I do not know."',
    (
        Message(
            Role.USER,
            '<source id="1" document="Handbook">\nEvery employee has 26 days of paid vacation.\n'
            "</source>",
            cached=True,
        ),
        Message(Role.USER, "<question>\nHow many days of vacation has an employee?\n</question>"),
    ),
)
ANSWER = "Every employee has 26 days of paid vacation. [1]"


def gate_of(model: Model) -> Gate:
    """A gate of its own for each adapter, without a quota or a second try."""
    return Gate(Target(model.provider, model.model, model.operation), Breakers(Policy()), retries=0)


def open_embedder(access: Access) -> Embedder:
    """The embedder of a provider."""
    space = parse_name(SPACES[access.provider])
    model = KNOWN.find(access.provider, Operation.EMBED)
    if access.provider == "gemini":
        return GeminiEmbedder(space, model, gemini.Client(access), gate_of(model))
    return CohereEmbedder(space, model, cohere.open_client(access), gate_of(model))


def open_reranker(access: Access) -> Reranker:
    """The reranker of a provider."""
    model = KNOWN.find(access.provider, Operation.RERANK)
    return CohereReranker(model, cohere.open_client(access), gate_of(model))


def open_model(access: Access) -> LanguageModel:
    """The language model of a provider."""
    model = KNOWN.find(access.provider, Operation.GENERATE)
    match access.provider:
        case "gemini":
            return GeminiModel(model, gemini.Client(access), gate_of(model), Rhythm())
        case "anthropic":
            return AnthropicModel(model, anthropic.open_client(access), gate_of(model), Rhythm())
        case _:
            return CohereModel(model, cohere.open_client(access), gate_of(model), Rhythm())


@asynccontextmanager
async def adapter(operation: str, access: Access) -> AsyncIterator[Any]:
    """An adapter, closed with the block."""
    opening = {"embed": open_embedder, "rerank": open_reranker, "generate": open_model}
    opened: Any = opening[operation](access)
    try:
        yield opened
    finally:
        await opened.close()


async def use(operation: str, opened: Any, seconds: float = 5.0) -> Any:
    """One call: vectors, scores, or pieces of text and how they ended."""
    if operation == "embed":
        return await opened.embed(["a pump", "a valve"], Task.DOCUMENT)
    if operation == "rerank":
        return await opened.score("pump", ["a valve", "a pump"], whole=True, until=None)
    return await written(opened, seconds)


async def written(
    model: LanguageModel, seconds: float = 5.0, prompt: Prompt = PROMPT
) -> tuple[str, Finished]:
    """The whole text of one call, and its closing word."""
    text: list[str] = []
    finished: Finished | None = None
    stream = model.stream(prompt, max_tokens=200, seconds=seconds, patience=seconds)
    async for step in stream:
        if isinstance(step, Finished):
            finished = step
        else:
            text.append(step)
    assert finished is not None
    return "".join(text), finished
