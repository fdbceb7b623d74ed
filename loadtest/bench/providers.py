"""`python -m loadtest.bench.providers`: what our way to a provider costs over its bare SDK.

The simulator answers at once. The same client of the SDK is called bare and through ours (breaker,
quota, deadline, retry, order of providers, accounting) in turn, so that the machine's moods meet
both. Prints a table, then one JSON object; exit code 1 when the median costs more than 1 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from google.genai import types

from loadtest.bench.statistics import Summary, summary
from loadtest.simulator.running import PROVIDERS, RunningSimulator
from meshkit.providers import anthropic, catalogue, cohere, gemini
from meshkit.providers.breakers import Breakers
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import Target
from meshkit.providers.gate import Gate
from meshkit.providers.throttle import Throttle
from meshkit.resilience.breaker import Policy
from meshkit.usage import Spend
from services.embedding.embedder import Task
from services.embedding.gemini import GeminiEmbedder
from services.embedding.spaces import parse_name
from services.generation.failover import LanguageModels
from services.generation.language_model import LanguageModel, Message, Prompt, Role
from services.generation.models.anthropic import AnthropicModel
from services.generation.models.cohere import CohereModel
from services.generation.models.gemini import GeminiModel
from services.generation.rhythm import Rhythm
from services.rerank.cohere import CohereReranker

MOST_MS = 1.0
"""Of the median overhead."""
SECONDS = 30.0
TOKENS = 64
SPACE = "gemini/gemini-embedding-001@768"
ASKED = "<question>\nHow many days of vacation has an employee?\n</question>"
PROMPT = Prompt("Answer shortly.", (Message(Role.USER, ASKED),))
PASSAGES = [f"Passage {number} about vacation and pumps." for number in range(10)]

PLENTY = 10**12
LISTED = {
    (model.provider, model.operation.value): replace(
        # Counted as in a service, and never reached.
        model,
        requests_per_minute=PLENTY,
        tokens_per_minute=PLENTY,
        requests_per_day=PLENTY,
    )
    for model in catalogue.load().models
    if model.default
}

Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One operation of one provider."""

    name: str
    bare: Summary
    ours: Summary
    overhead: Summary
    """Of each pair, what ours took more."""
    cpu: Summary
    """The same in time of the processor, which other programs disturb less."""

    def row(self) -> str:
        """A line of the table."""
        over = self.overhead
        interval = f"[{over.low:+.3f}, {over.high:+.3f}]"
        return (
            f"{self.name:22} {self.bare.p50:8.3f} {self.ours.p50:8.3f} {over.p50:+8.3f} "
            f"{interval:20} {over.p95:+8.3f} {self.cpu.p50:+8.3f}  n={over.count}"
        )


def gate(model: Model) -> Gate:
    """As a service has it, with a quota that is never used up."""
    target = Target(model.provider, model.model, model.operation)
    return Gate(target, Breakers(Policy()), Throttle(model, 1.0))


@dataclass(frozen=True, slots=True)
class Bare:
    """The SDKs' own calls, with the requests that our adapters send."""

    gemini: Any
    anthropic: Any
    cohere: Any

    @classmethod
    @asynccontextmanager
    async def open(cls, providers: RunningSimulator) -> AsyncIterator[Bare]:
        """Clients of the simulator, closed with the block."""
        clients = cls(
            gemini.Client(providers.access("gemini")),
            anthropic.open_client(providers.access("anthropic")),
            cohere.open_client(providers.access("cohere")),
        )
        try:
            yield clients
        finally:
            await clients.gemini.close()
            await clients.anthropic.close()
            await cohere.close(clients.cohere)

    async def gemini_generate(self) -> None:
        """A streamed answer."""
        model = LISTED["gemini", "generate"]
        stream = await self.gemini.models.generate_content_stream(
            model=model.model,
            contents=[types.Content(role="user", parts=[types.Part(text=ASKED)])],
            config=types.GenerateContentConfig(
                system_instruction=PROMPT.system,
                max_output_tokens=TOKENS + model.thinking_tokens,
                thinking_config=types.ThinkingConfig(
                    thinking_level=types.ThinkingLevel(model.thinking)
                ),
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
                http_options=gemini.options(SECONDS),
            ),
        )
        async for _ in stream:
            pass

    async def anthropic_generate(self) -> None:
        """A streamed answer."""
        cached = {"cache_control": {"type": "ephemeral"}}
        stream = await self.anthropic.messages.create(
            model=LISTED["anthropic", "generate"].model,
            max_tokens=TOKENS,
            system=[{"type": "text", "text": PROMPT.system, **cached}],
            messages=[{"role": "user", "content": [{"type": "text", "text": ASKED}]}],
            thinking={"type": "disabled"},
            stream=True,
            timeout=SECONDS,
        )
        async for _ in stream:
            pass

    async def cohere_generate(self) -> None:
        """A streamed answer."""
        messages = [
            {"role": "system", "content": PROMPT.system},
            {"role": "user", "content": ASKED},
        ]
        stream = self.cohere.chat_stream(
            model=LISTED["cohere", "generate"].model,
            messages=messages,
            max_tokens=TOKENS,
            request_options=cohere.options(SECONDS),
        )
        async for _ in stream:
            pass

    async def gemini_embed(self) -> None:
        """One vector."""
        await self.gemini.models.embed_content(
            model=LISTED["gemini", "embed"].model,
            contents=[ASKED],
            config=types.EmbedContentConfig(
                task_type="RETRIEVAL_QUERY",
                output_dimensionality=768,
                http_options=gemini.options(SECONDS),
            ),
        )

    async def cohere_rerank(self) -> None:
        """Ten passages."""
        await self.cohere.rerank(
            model=LISTED["cohere", "rerank"].model,
            query=ASKED,
            documents=PASSAGES,
            max_tokens_per_doc=512,
            request_options=cohere.options(SECONDS),
        )


class Ours:
    """The same through our adapters and the order of providers, over the same clients."""

    def __init__(self, bare: Bare) -> None:
        embedding, ranking = LISTED["gemini", "embed"], LISTED["cohere", "rerank"]
        self._embedder = GeminiEmbedder(parse_name(SPACE), embedding, bare.gemini, gate(embedding))
        self._reranker = CohereReranker(ranking, bare.cohere, gate(ranking))
        models = {provider: LISTED[provider, "generate"] for provider in PROVIDERS}
        opened: dict[str, LanguageModel] = {
            "gemini": GeminiModel(models["gemini"], bare.gemini, gate(models["gemini"]), Rhythm()),
            "anthropic": AnthropicModel(
                models["anthropic"], bare.anthropic, gate(models["anthropic"]), Rhythm()
            ),
            "cohere": CohereModel(models["cohere"], bare.cohere, gate(models["cohere"]), Rhythm()),
        }
        self._models = {
            name: LanguageModels([model], first_word_seconds=10) for name, model in opened.items()
        }

    async def generate(self, provider: str) -> None:
        """A streamed answer."""
        spend = Spend(provider, "")
        stream = self._models[provider].stream(
            PROMPT, max_tokens=TOKENS, seconds=SECONDS, spend=spend
        )
        async for _ in stream:
            pass

    async def embed(self) -> None:
        """One vector."""
        await self._embedder.embed([ASKED], Task.QUERY)

    async def rerank(self) -> None:
        """Ten passages."""
        await self._reranker.score(ASKED, PASSAGES, whole=False, until=None)


async def compare(name: str, bare: Call, ours: Call, rounds: int) -> Compared:
    """Both, in turn, whoever is first in turn as well."""
    taken: dict[Call, list[float]] = {bare: [], ours: []}
    worked: dict[Call, list[float]] = {bare: [], ours: []}
    for call in (bare, ours) * 5:
        await call()
    for number in range(rounds):
        for call in (bare, ours) if number % 2 else (ours, bare):
            began, work = time.perf_counter(), time.process_time()
            await call()
            taken[call].append((time.perf_counter() - began) * 1000)
            worked[call].append((time.process_time() - work) * 1000)
    over = [mine - plain for plain, mine in zip(taken[bare], taken[ours], strict=True)]
    cpu = [mine - plain for plain, mine in zip(worked[bare], worked[ours], strict=True)]
    return Compared(name, summary(taken[bare]), summary(taken[ours]), summary(over), summary(cpu))


async def bench(rounds: int) -> list[Compared]:
    """Every operation, shown as it is done."""
    print(
        f"{'milliseconds':22} {'bare':>8} {'ours':>8} {'more':>8} {'95 % interval':20}"
        f" {'p95':>8} {'cpu':>8}"
    )
    found: list[Compared] = []
    with RunningSimulator.start() as providers:
        async with Bare.open(providers) as bare:
            ours = Ours(bare)
            pairs: dict[str, tuple[Call, Call]] = {
                "gemini generate": (bare.gemini_generate, partial(ours.generate, "gemini")),
                "anthropic generate": (
                    bare.anthropic_generate,
                    partial(ours.generate, "anthropic"),
                ),
                "cohere generate": (bare.cohere_generate, partial(ours.generate, "cohere")),
                "gemini embed": (bare.gemini_embed, ours.embed),
                "cohere rerank": (bare.cohere_rerank, ours.rerank),
            }
            for name, (plain, mine) in pairs.items():
                found.append(await compare(name, plain, mine, rounds))
                print(found[-1].row(), flush=True)
    return found


def main() -> int:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.providers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="pairs of calls of each operation")
    found = asyncio.run(bench(parser.parse_args().rounds))
    worst = max(each.overhead.p50 for each in found)
    result = {
        "overhead": {
            each.name: {
                "bare_p50_ms": round(each.bare.p50, 3),
                "ours_p50_ms": round(each.ours.p50, 3),
                "p50_ms": round(each.overhead.p50, 3),
                "interval_ms": [round(each.overhead.low, 3), round(each.overhead.high, 3)],
                "p95_ms": round(each.overhead.p95, 3),
                "cpu_p50_ms": round(each.cpu.p50, 3),
            }
            for each in found
        },
        "worst_p50_ms": round(worst, 3),
        "holds": worst <= MOST_MS,
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
