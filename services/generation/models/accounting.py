"""Tokens and costs of one call to a language model. Pure."""

from __future__ import annotations

from meshkit.providers.catalogue import Model, estimated_tokens
from meshkit.usage import Spend
from services.generation.answers import Usage
from services.generation.language_model import Prompt, Spent


def usages(stage: str, spend: Spend) -> tuple[Usage, ...]:
    """What every call took, also of models that failed before another one wrote."""
    return tuple(
        Usage(
            stage,
            used.provider,
            used.model,
            used.input_tokens,
            used.output_tokens,
            used.cost_micro_usd,
            used.estimated,
        )
        for used in spend.used
    )


def estimate(model: Model, prompt: Prompt, output_tokens: int) -> Spent:
    """What a call takes at most; all of the prompt is written to the provider's cache."""
    read = estimated_tokens(prompt.texts)
    cached = model.cache_write is not None
    cost = model.cost_micro_usd(
        input_tokens=0 if cached else read,
        cache_write_tokens=read if cached else 0,
        output_tokens=output_tokens,
    )
    return Spent(read, output_tokens, cost, estimated=True)


def spent(
    model: Model,
    *,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int = 0,
    cache_write_tokens: int = 0,
) -> Spent:
    """What a call took by the provider's own count.

    Args:
        model: The model.
        input_tokens: Tokens read without those of the two last arguments.
        output_tokens: Tokens written, thoughts included.
        cached_tokens: Tokens read from the provider's cache.
        cache_write_tokens: Tokens written to it.
    """
    cost = model.cost_micro_usd(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        cache_write_tokens=cache_write_tokens,
    )
    return Spent(input_tokens + cached_tokens + cache_write_tokens, output_tokens, cost)
