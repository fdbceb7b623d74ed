"""An answer on its way to its reader: filtered while it is written, by one provider or several.

When a model fails in the middle of its text and another goes on, the reader is told: the sentence
that was begun is taken back and the next model continues behind what stands whole, or everything
is void and it starts over. Either way no text is spliced and none comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from meshkit.logging import logger
from meshkit.telemetry import metrics
from meshkit.usage import Spend
from services.generation.answers import Delta, Draft, Retracted, Switched
from services.generation.calls.guardrail import GuardrailCalls
from services.generation.generator import Generator
from services.generation.passages import Passage
from services.generation.resuming import whole_sentences
from services.generation.stopwatch import Stopwatch

log = logger(__name__)

INTERRUPTED = "interrupted"
"""Reason of taking back the sentence in which a provider failed."""

_switches = metrics.counter("citemesh.answer.switches")


class Telling:
    """Tells one answer; `text` and `draft` are complete when its events have ended.

    Args:
        generator: Who writes.
        guardrail: Who filters what is written.
        release: When text leaves the filter: `stream`, `sentence` or `whole`.
        seconds: Longest time for the whole text.
        keeps: Whether whole sentences stay when another model goes on.
    """

    def __init__(
        self,
        generator: Generator,
        guardrail: GuardrailCalls,
        *,
        release: str,
        seconds: float,
        keeps: bool,
    ) -> None:
        self._generator = generator
        self._guardrail = guardrail
        self._release = release
        self._seconds = seconds
        self._keeps = keeps
        self._broken_off: list[Switched] = []
        self.text = ""
        """What the reader has, as far as it still counts."""
        self.draft: Draft | None = None
        self.switches = 0

    async def events(
        self,
        question: str,
        passages: Sequence[Passage],
        *,
        max_tokens: int,
        watch: Stopwatch,
        spend: Spend,
    ) -> AsyncGenerator[Delta | Retracted | Switched, None]:
        """What the reader is sent; with the release `whole` only at the end of every check.

        Raises:
            MeshError: nobody could write, or not to the end; or the guardrail failed.
        """
        written = self._generator.write(
            question,
            passages,
            max_tokens=max_tokens,
            seconds=watch.share(0.8, self._seconds),
            spend=spend,
            so_far=lambda: self.text,
        )
        async with aclosing(written):
            while True:
                filtered = self._guardrail.filtered(
                    lambda: self._until_switch(written),
                    release=self._release,
                    seconds=watch.share(0.9, self._seconds),
                )
                async with aclosing(filtered):
                    async for text in filtered:
                        self.text += text
                        yield Delta(text)
                if not self._broken_off:
                    return
                for event in self._switch(self._broken_off.pop()):
                    yield event

    async def _until_switch(
        self, written: AsyncGenerator[str | Switched | Draft, None]
    ) -> AsyncGenerator[str, None]:
        """Text up to a switch or the end; `written` stays open behind a switch."""
        async for piece in written:
            if isinstance(piece, str):
                yield piece
            elif isinstance(piece, Draft):
                self.draft = piece
            else:
                self._broken_off.append(piece)
                return

    def _switch(self, switched: Switched) -> list[Retracted | Switched]:
        """What the reader is told, and what stands after it."""
        kept = whole_sentences(self.text) if self._keeps and not switched.restarted else ""
        told: list[Retracted | Switched] = []
        if kept and kept != self.text:
            told.append(Retracted(len(kept), len(self.text), INTERRUPTED))
        # To a reader who has seen nothing yet nothing has happened.
        if self.text:
            told.append(replace(switched, restarted=not kept))
        self.text = kept
        self.switches += 1
        facts = {"from": switched.from_provider, "to": switched.to_provider}
        _switches.add(1, facts)
        log.warning("another provider goes on", reason=switched.reason, kept=len(kept), **facts)
        return told
