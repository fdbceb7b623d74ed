"""`python -m services.generation.check`: one streamed answer of each API that is set or keyed."""

from __future__ import annotations

import time

from meshkit import settings
from meshkit.providers.catalogue import Operation
from meshkit.providers.check import SECONDS, Finding, Tried, main, named, tried
from meshkit.providers.settings import Providers
from services.generation.language_model import Finished, Left, Message, Prompt, Role
from services.generation.opening import open_models
from services.generation.rhythm import Rhythm
from services.generation.settings import GenerationSettings

PROMPT = Prompt(
    "Answer in one short sentence.",
    (Message(Role.USER, "<question>\nWhich colour has a clear sky at noon?\n</question>"),),
)
MOST_TOKENS = 64


async def check(providers: Providers) -> list[Finding]:
    """Tries every language model."""
    names = named(settings.load(GenerationSettings).language_models, Operation.GENERATE, providers)
    return [await _try(name, providers) for name in names]


async def _try(name: str, providers: Providers) -> Finding:
    async def call() -> Tried:
        [model] = open_models([name], providers, Rhythm())
        began = time.perf_counter()
        pieces, first, cost, ended, left = 0, 0.0, 0, "", ""
        try:
            stream = model.stream(PROMPT, max_tokens=MOST_TOKENS, seconds=SECONDS, patience=SECONDS)
            async for step in stream:
                if isinstance(step, Finished):
                    cost, ended = step.spent.cost_micro_usd, step.finish.value
                    left = _left(step.left)
                else:
                    first = first or (time.perf_counter() - began) * 1000
                    pieces += 1
        finally:
            await model.close()
        remark = f"first word after {first:.0f} ms, {pieces} pieces, ended by {ended}{left}"
        return Tried(remark, cost_micro_usd=cost)

    return await tried(name, "generation", call)


def _left(left: Left) -> str:
    """What the provider said of the minute's quota; empty when it said nothing."""
    said = []
    if left.requests is not None:
        said.append(f"{left.requests} requests")
    if left.tokens is not None:
        said.append(f"{left.tokens} tokens")
    return f"; left this minute: {' and '.join(said)}" if said else ""


if __name__ == "__main__":
    main(check)
