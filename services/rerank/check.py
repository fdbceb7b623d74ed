"""`python -m services.rerank.check`: two passages scored by each API that is set or has a key."""

from __future__ import annotations

from meshkit import settings
from meshkit.providers.catalogue import Operation
from meshkit.providers.check import Finding, Tried, main, named, tried
from meshkit.providers.settings import Providers
from services.rerank.opening import open_api
from services.rerank.ranking import best_first
from services.rerank.settings import RerankSettings

QUESTION = "How many days of leave does an employee have?"
PASSAGES = ("The pump is replaced yearly.", "Every employee has 28 days of paid leave.")


async def check(providers: Providers) -> list[Finding]:
    """Tries every provider that has an API."""
    names = named(settings.load(RerankSettings).providers, Operation.RERANK, providers)
    return [await _try(name, providers) for name in names]


async def _try(name: str, providers: Providers) -> Finding:
    async def call() -> Tried:
        reranker = open_api(name, providers)
        try:
            reading = await reranker.score(QUESTION, PASSAGES, whole=True, until=None)
        finally:
            await reranker.close()
        right = best_first(reading.scored)[0].index == 1
        remark = "the right passage first" if right else "the wrong passage first"
        return Tried(remark, cost_micro_usd=reading.cost_micro_usd)

    return await tried(name, "rerank", call)


if __name__ == "__main__":
    main(check)
