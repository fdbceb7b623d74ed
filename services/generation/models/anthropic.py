"""Language models of the Anthropic API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from anthropic import AsyncAnthropic, omit
from anthropic.types import MessageParam, TextBlockParam, Usage

from meshkit.providers import anthropic
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import ContentBlocked, MalformedResponse, StreamTruncated
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Left, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.streaming import StreamingModel, drain

FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.MAX_TOKENS,
    "model_context_window_exceeded": Finish.MAX_TOKENS,
}


class AnthropicModel(StreamingModel):
    """See `LanguageModel`. Instructions, and what a message says, are marked for its cache.

    Its models take no sampling temperature any more.
    """

    def __init__(self, model: Model, client: AsyncAnthropic, gate: Gate) -> None:
        super().__init__(model, anthropic.classify, gate)
        self._client = client

    async def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        del temperature
        thinking = self._listed.thinking
        events = await self._client.messages.create(
            model=self.model,
            max_tokens=max_tokens + self._listed.thinking_tokens,
            system=[_block(prompt.system, cached=True)] if prompt.system else omit,
            messages=_messages(prompt),
            thinking={"type": "disabled"} if thinking == "disabled" else omit,
            stream=True,
            timeout=max(0.001, seconds),
        )
        read: Usage | None = None
        written = 0
        finish: str | None = None
        async with events:
            async for event in events:
                if event.type == "message_start":
                    read = event.message.usage
                elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                    yield event.delta.text
                elif event.type == "message_delta":
                    written = event.usage.output_tokens
                    finish = event.delta.stop_reason
                elif event.type == "message_stop":
                    left = _left(events.response.headers)
                    yield Finished(self._finish(finish), self._spent(read, written), left)
                    await drain(events)
                    return
        raise StreamTruncated(self._target)

    def _finish(self, reason: str | None) -> Finish:
        if reason == "refusal":
            raise ContentBlocked(self._target, code=reason)
        if reason not in FINISHES:
            raise MalformedResponse(self._target, code=reason or "")
        return FINISHES[reason]

    def _spent(self, read: Usage | None, written: int) -> Spent:
        if read is None:
            return Spent(0, 0, 0, estimated=True)
        return accounting.spent(
            self._listed,
            input_tokens=read.input_tokens,
            cached_tokens=read.cache_read_input_tokens or 0,
            cache_write_tokens=read.cache_creation_input_tokens or 0,
            output_tokens=written,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


def _left(headers: Mapping[str, str]) -> Left:
    values = [
        headers.get(f"anthropic-ratelimit-{what}-remaining", "") for what in ("requests", "tokens")
    ]
    return Left(*(int(value) if value.isdigit() else None for value in values))


def _block(text: str, *, cached: bool) -> TextBlockParam:
    block: TextBlockParam = {"type": "text", "text": text}
    if cached:
        block["cache_control"] = {"type": "ephemeral"}
    return block


def _messages(prompt: Prompt) -> list[MessageParam]:
    turns: list[MessageParam] = []
    for role, messages in prompt.turns:
        blocks = [_block(message.text, cached=message.cached) for message in messages]
        turns.append(
            {"role": "user", "content": blocks}
            if role is Role.USER
            else {"role": "assistant", "content": blocks}
        )
    return turns
