"""Trying providers out: one small call each, before anybody's first upload.

Each service that calls providers has a module `check` that tries its own adapters and prints
what it found; `citemesh providers check` runs them and puts the findings together.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from meshkit.errors import MeshError
from meshkit.providers.catalogue import Operation
from meshkit.providers.errors import ProviderError
from meshkit.providers.settings import KEY_VARIABLES, Providers, load
from meshkit.settings import SettingsInvalid

MODULES = ("services.embedding.check", "services.rerank.check", "services.generation.check")
SECONDS = 20.0
"""Of one try."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one provider for one use."""

    provider: str
    use: str
    """`embedding`, `rerank`, `generation`."""
    works: bool
    remark: str
    model: str = ""
    reason: str = ""
    """Of a failure, such as `PROVIDER_KEY_REJECTED`."""
    ms: float | None = None
    """Milliseconds the call took."""
    dimensions: int | None = None
    """Of the vector that came back."""
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """What a call that went well showed."""

    remark: str
    dimensions: int | None = None
    cost_micro_usd: int = 0


def named(names: Sequence[str], operation: Operation, providers: Providers) -> list[str]:
    """`provider/model` of everything to try: what is set, and the default of whoever has a key."""
    found = [name for name in names if name.partition("/")[0] != "local"]
    for model in providers.catalogue.models:
        keyed = bool(os.environ.get(KEY_VARIABLES.get(model.provider, ""), ""))
        known = any(name.partition("/")[0] == model.provider for name in found)
        if model.operation is operation and model.default and keyed and not known:
            found.append(model.name)
    return found


async def tried(name: str, use: str, call: Callable[[], Awaitable[Tried]]) -> Finding:
    """The finding of one call."""
    provider, _, model = name.partition("/")
    began = time.perf_counter()
    try:
        async with asyncio.timeout(SECONDS):
            seen = await call()
    except ProviderError as error:
        wait = "" if error.retry_after is None else f"; again in {error.retry_after:.0f} s"
        code = f" ({error.code})" if error.code else ""
        remark = f"{provider} {error.says}{code}{wait}"
        return Finding(provider, use, False, remark, model, error.reason)
    except (MeshError, SettingsInvalid) as error:
        reason = error.reason if isinstance(error, MeshError) else "NOT_SET"
        remark = error.detail if isinstance(error, MeshError) else str(error)
        return Finding(provider, use, False, remark, model, reason)
    except TimeoutError:
        return Finding(provider, use, False, "no answer", model, "PROVIDER_TIMED_OUT")
    ms = (time.perf_counter() - began) * 1000
    return Finding(
        provider,
        use,
        True,
        seen.remark,
        model,
        ms=round(ms, 1),
        dimensions=seen.dimensions,
        cost_micro_usd=seen.cost_micro_usd,
    )


def main(check: Callable[[Providers], Awaitable[list[Finding]]]) -> None:
    """Prints the findings of one service, one JSON object a line."""
    try:
        findings = asyncio.run(_run(check))
    except (SettingsInvalid, ValueError) as error:
        sys.exit(str(error))
    for finding in findings:
        print(json.dumps(asdict(finding)))  # noqa: T201 - this is what it is run for


async def _run(check: Callable[[Providers], Awaitable[list[Finding]]]) -> list[Finding]:
    return await check(load())
