"""The answerer that writes: a language model over the sources, in its own words.

What it says is held to the sources afterwards, as every answer is: markers that name no
source are taken out, each citation gets the sentence it rests on, and grounding judges.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from meshkit.logging import logger
from meshkit.providers.attempt import until
from meshkit.providers.errors import ProviderError
from meshkit.providers.gate import left
from meshkit.usage import Spend
from services.generation.abstention import not_found, says_not_found
from services.generation.answers import Draft, Switched
from services.generation.failover import LanguageModels, Serving
from services.generation.generator import Generator
from services.generation.language_model import Finished, Message, Prompt, Role
from services.generation.markers import MarkerFilter
from services.generation.models.accounting import usages
from services.generation.passages import Passage
from services.generation.prompt import INSTRUCTIONS, answer_prompt, continuing
from services.generation.quotes import supporting_quotes
from services.generation.resuming import Continuation
from services.generation.writing import STAGE

log = logger(__name__)

CHARACTERS_OF_A_TOKEN = 3
"""Taken for what is reserved, before anything was found."""
MODELS_SHARE = 0.7
"""Of the time there is, for all models together when somebody answers after them."""


class AbstractiveGenerator:
    """Writes from the sources with a language model; see `Generator`.

    Args:
        models: Who writes.
        last_resort: Who answers when none of them can; None lets the answer fail.
        source_tokens: Most tokens of the sources.
        goes_on: Whether another one goes on when a model fails in the middle of its text.
    """

    def __init__(
        self,
        models: LanguageModels,
        *,
        last_resort: Generator | None,
        source_tokens: int,
        goes_on: bool = True,
    ) -> None:
        self._models = models
        self._last_resort = last_resort
        self._source_tokens = source_tokens
        self._goes_on = goes_on

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
        sources = "x" * (CHARACTERS_OF_A_TOKEN * self._source_tokens)
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
        so_far: Callable[[], str],
    ) -> AsyncGenerator[str | Switched | Draft, None]:
        """The model's text, then one `Draft`."""
        if not passages:
            yield not_found(question)
            yield Draft((), True)
            return
        ends = until(seconds)
        # Models that all say nothing must leave the last resort the time to quote.
        share = 1.0 if self._last_resort is None else MODELS_SHARE
        pieces = self._written(question, passages, max_tokens, share * seconds, spend, so_far)
        begun = False
        failed: ProviderError | None = None
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    begun = True
                    yield piece
        except ProviderError as error:
            if self._last_resort is None or (begun and not self._goes_on):
                raise error.as_mesh_error() from None
            failed = error
        if failed is None or self._last_resort is None:
            return
        log.warning("answering without a language model", kind=failed.kind)
        if begun:
            # A quotation is an answer of its own and continues nobody's.
            provider = self._last_resort.provider
            yield Switched(failed.target.provider, provider, failed.reason, restarted=True)
        fallback = self._last_resort.write(
            question,
            # It quotes what was found; a neighbour is there for who reads on.
            [passage for passage in passages if not passage.beside],
            max_tokens=max_tokens,
            seconds=left(ends),
            spend=spend,
            so_far=so_far,
        )
        async with aclosing(fallback):
            async for piece in fallback:
                if isinstance(piece, Draft):
                    yield replace(
                        piece,
                        usage=(*usages(STAGE, spend), *piece.usage),
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
        so_far: Callable[[], str],
    ) -> AsyncGenerator[str | Switched | Draft, None]:
        prompt = answer_prompt(question, passages)
        known = [passage.marker for passage in passages]
        serving = Serving(self.provider, self.model)
        shown = _Shown(known, "")

        def go_on() -> Prompt:
            return continuing(prompt, so_far()) if so_far() else prompt

        stream = self._models.stream(
            prompt,
            max_tokens=max_tokens,
            seconds=seconds,
            spend=spend,
            go_on=go_on if self._goes_on else None,
        )
        async with aclosing(stream):
            async for step in stream:
                if isinstance(step, Serving):
                    serving = step
                elif isinstance(step, Switched):
                    yield step
                    shown = _Shown(known, so_far())
                elif piece := shown.close() if isinstance(step, Finished) else shown.feed(step):
                    yield piece
        answer = shown.text
        abstained = says_not_found(answer)
        yield Draft(
            quotes=() if abstained else supporting_quotes(answer, passages),
            abstained=abstained,
            usage=usages(STAGE, spend),
            provider=serving.provider,
            model=serving.model,
        )


class _Shown:
    """What of a model's text is shown: no marker of another source, nothing said before.

    Args:
        known: Markers of the sources.
        said: What stands already of the answer.
    """

    def __init__(self, known: Sequence[str], said: str) -> None:
        self._markers = MarkerFilter(known)
        self._rest = Continuation(said) if said else None
        self.text = said

    def feed(self, piece: str) -> str:
        """The next piece as it may go on; may be empty."""
        return self._add(self._markers.feed(piece))

    def close(self) -> str:
        """What was held back when the text ended."""
        last = self._add(self._markers.close())
        return last + self._add_whole(self._rest.close()) if self._rest else last

    def _add(self, piece: str) -> str:
        return self._add_whole(self._rest.feed(piece) if self._rest else piece)

    def _add_whole(self, piece: str) -> str:
        self.text += piece
        return piece
