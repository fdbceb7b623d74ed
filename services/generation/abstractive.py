"""The answerer that writes: a language model over the sources, in its own words.

What it says is held to the sources afterwards, as every answer is: markers that name no
source are taken out, each citation gets the sentence it rests on, and grounding judges.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from meshkit.logging import logger
from meshkit.providers.errors import ProviderError
from meshkit.usage import Spend
from services.generation.answers import Draft, Usage
from services.generation.failover import LanguageModels, Serving
from services.generation.generator import NOT_FOUND, Generator
from services.generation.language_model import Finished, Message, Prompt, Role
from services.generation.markers import MarkerFilter
from services.generation.passages import Passage
from services.generation.prompt import INSTRUCTIONS, answer_prompt
from services.generation.quotes import supporting_quotes
from services.generation.writing import STAGE

log = logger(__name__)

CHARACTERS_OF_A_PASSAGE = 4000
"""Taken for what is reserved, before anything was found."""


class AbstractiveGenerator:
    """Writes from the sources with a language model; see `Generator`.

    Args:
        models: Who writes.
        last_resort: Who answers when none of them can; None lets the answer fail.
        passages: Passages an answer is made from.
    """

    def __init__(
        self, models: LanguageModels, *, last_resort: Generator | None, passages: int
    ) -> None:
        self._models = models
        self._last_resort = last_resort
        self._passages = passages

    @property
    def provider(self) -> str:
        """The preferred model's provider."""
        return self._models.first.provider

    @property
    def model(self) -> str:
        """The preferred model."""
        return self._models.first.model

    def estimate_micro_usd(self, question: str, max_tokens: int) -> int:
        """See `Generator`: the dearest model, and sources as long as they can be."""
        sources = "x" * (CHARACTERS_OF_A_PASSAGE * self._passages)
        prompt = Prompt(INSTRUCTIONS, (Message(Role.USER, sources), Message(Role.USER, question)))
        return self._models.estimate_micro_usd(prompt, max_tokens)

    async def write(
        self,
        question: str,
        passages: Sequence[Passage],
        *,
        max_tokens: int,
        seconds: float,
        spend: Spend,
    ) -> AsyncGenerator[str | Draft, None]:
        """The model's text, then one `Draft`."""
        if not passages:
            yield NOT_FOUND
            yield Draft((), None, True)
            return
        pieces = self._written(question, passages, max_tokens, seconds, spend)
        begun = False
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    begun = True
                    yield piece
        except ProviderError as error:
            if begun or self._last_resort is None:
                raise error.as_mesh_error() from None
            log.warning("answering without a language model", kind=error.kind)
        else:
            return
        fallback = self._last_resort.write(
            question, passages, max_tokens=max_tokens, seconds=seconds, spend=spend
        )
        async with aclosing(fallback):
            async for piece in fallback:
                if isinstance(piece, Draft):
                    yield replace(
                        piece,
                        usage=(*_usage(spend), *piece.usage),
                        degraded=("generation", *piece.degraded),
                    )
                else:
                    yield piece

    async def _written(
        self,
        question: str,
        passages: Sequence[Passage],
        max_tokens: int,
        seconds: float,
        spend: Spend,
    ) -> AsyncGenerator[str | Draft, None]:
        prompt = answer_prompt(question, passages)
        markers = MarkerFilter([passage.marker for passage in passages])
        text: list[str] = []
        serving = Serving(self.provider, self.model)
        stream = self._models.stream(prompt, max_tokens=max_tokens, seconds=seconds, spend=spend)
        async with aclosing(stream):
            async for step in stream:
                if isinstance(step, Serving):
                    serving = step
                    continue
                shown = markers.close() if isinstance(step, Finished) else markers.feed(step)
                if shown:
                    text.append(shown)
                    yield shown
        answer = "".join(text)
        abstained = answer.strip().startswith(NOT_FOUND)
        yield Draft(
            quotes=() if abstained else supporting_quotes(answer, passages),
            evidence=None,
            abstained=abstained,
            usage=_usage(spend),
            provider=serving.provider,
            model=serving.model,
        )


def _usage(spend: Spend) -> tuple[Usage, ...]:
    """What every call took, also of models that failed before another one wrote."""
    return tuple(
        Usage(
            STAGE,
            used.provider,
            used.model,
            used.input_tokens,
            used.output_tokens,
            used.cost_micro_usd,
            used.estimated,
        )
        for used in spend.used
    )
