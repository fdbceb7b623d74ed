"""Calls to the guardrail. When it cannot be reached nothing goes on: it fails closed."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from citemesh.guardrail import v1 as guardrail_v1
from meshkit.channel import streaming
from meshkit.errors import Cancelled, InvalidInput, MeshError, Unavailable
from services.generation.answers import Grounding, Sentence

_RELEASES = {
    "stream": guardrail_v1.RELEASE_POLICY_STREAM,
    "sentence": guardrail_v1.RELEASE_POLICY_SENTENCE,
    "whole": guardrail_v1.RELEASE_POLICY_WHOLE,
}
# Between quotes that are filtered together: no detector's match spans a line break.
_BETWEEN = "\n\u241e\n"


class GuardrailCalls:
    """What generation asks of the guardrail."""

    def __init__(self, stub: guardrail_v1.GuardrailServiceAsyncStub) -> None:
        self._stub = stub

    async def check(self, question: str, *, seconds: float) -> str:
        """The question to go on with, secrets replaced.

        Raises:
            InvalidInput: INPUT_BLOCKED, with the guardrail's sentence.
            Unavailable: GUARDRAIL_UNAVAILABLE.
        """
        request = guardrail_v1.CheckInputRequest(text=question)
        try:
            response = await self._stub.CheckInput(request, timeout=seconds)
        except MeshError as error:
            raise closed(error) from error
        if response.verdict == guardrail_v1.VERDICT_ALLOW:
            return question
        if response.verdict == guardrail_v1.VERDICT_REDACT:
            return response.text
        rules = ",".join(sorted({finding.rule for finding in response.findings}))
        raise InvalidInput(
            "INPUT_BLOCKED",
            response.reason or "The question was blocked.",
            metadata={"rules": rules},
        )

    async def filtered(
        self, deltas: Callable[[], AsyncGenerator[str, None]], *, release: str, seconds: float
    ) -> AsyncGenerator[str, None]:
        """The text of `deltas` as it may be shown, while it is written.

        Raises:
            Unavailable: GUARDRAIL_UNAVAILABLE.
            MeshError: what `deltas` raised.
        """
        async with streaming(self._stub.FilterOutput(timeout=seconds)) as call:
            writer = asyncio.create_task(_write(call, deltas, release))
            writer.add_done_callback(lambda task: _failed(task) and call.cancel())
            complete = False
            try:
                async for response in call:
                    event = response.WhichOneof("event")
                    if event == "delta":
                        yield response.delta.text
                    complete = complete or event == "summary"
                await writer
            except MeshError as error:
                # What the writer of the text ran into comes first: it cancelled the call.
                if writer.done() and _failed(writer):
                    writer.result()
                raise closed(error) from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if writer.done() and _failed(writer) and task and not task.cancelling():
                    writer.result()
                raise
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            if not complete:
                raise Unavailable(*_CLOSED)

    async def redacted(self, texts: Sequence[str], *, seconds: float) -> list[str]:
        """Each text as it may be shown.

        Raises:
            Unavailable: GUARDRAIL_UNAVAILABLE.
        """
        if not texts:
            return []

        async def once() -> AsyncGenerator[str, None]:
            yield _BETWEEN.join(texts)

        async with aclosing(self.filtered(once, release="whole", seconds=seconds)) as stream:
            pieces = [piece async for piece in stream]
        shown = "".join(pieces).split(_BETWEEN)
        if len(shown) != len(texts):
            raise Unavailable(*_CLOSED)
        return shown

    async def ground(
        self,
        answer: str,
        sources: Mapping[str, str],
        question: str,
        quotes: Sequence[str],
        *,
        seconds: float,
    ) -> Grounding:
        """Whether the sources, by marker, support the answer, and its quotes as they may be shown.

        One call for both: it is made for every answer.

        Raises:
            MeshError: when it could not be judged.
        """
        response = await self._stub.CheckGrounding(
            guardrail_v1.CheckGroundingRequest(
                answer=answer,
                sources=[
                    guardrail_v1.GroundingSource(marker=marker, text=text)
                    for marker, text in sources.items()
                ],
                question=question,
                quotes=quotes,
            ),
            timeout=seconds,
        )
        return Grounding(
            tuple(
                Sentence(found.start, found.end, found.supported, tuple(found.markers))
                for found in response.sentences
            ),
            response.groundedness,
            tuple(response.quotes),
        )


_CLOSED = (
    "GUARDRAIL_UNAVAILABLE",
    "The guardrail cannot be reached, so no answer is given; try again shortly.",
)


def closed(error: MeshError) -> MeshError:
    """The error a caller sees when the guardrail failed; going away is no failure."""
    if isinstance(error, Cancelled) or error.reason == _CLOSED[0]:
        return error
    return Unavailable(*_CLOSED, retry_after=1.0)


def _failed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None


async def _write(call: Any, deltas: Callable[[], AsyncGenerator[str, None]], release: str) -> None:
    """Writes start, every delta and end.

    Raises:
        Unavailable: GUARDRAIL_UNAVAILABLE.
        MeshError: what `deltas` raised.
    """

    async def write(**event: Any) -> None:
        try:
            await call.write(guardrail_v1.FilterOutputRequest(**event))
        except MeshError as error:
            # It may be seen here before the reader sees it, and is not the text's.
            raise closed(error) from error

    await write(start=guardrail_v1.FilterStart(release=_RELEASES[release]))
    async with aclosing(deltas()) as texts:
        async for text in texts:
            await write(delta=guardrail_v1.FilterDelta(text=text))
    await write(end=guardrail_v1.FilterEnd())
    await call.done_writing()
