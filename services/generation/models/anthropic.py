"""Language models of the Anthropic API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx2
from anthropic import APIStatusError, AsyncAnthropic, omit
from anthropic.types import MessageParam, TextBlockParam

from meshkit.providers import anthropic
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import ContentBlocked, MalformedResponse, Target
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Left, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.events import Event
from services.generation.models.streaming import StreamingModel
from services.generation.rhythm import Rhythm

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

    def __init__(self, model: Model, client: AsyncAnthropic, gate: Gate, rhythm: Rhythm) -> None:
        super().__init__(model, anthropic.classify, gate, rhythm)
        self._client = client

    async def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        del temperature
        thinking = self._listed.thinking
        sent = await self._client.messages.create(
            model=self.model,
            max_tokens=max_tokens + self._listed.thinking_tokens,
            system=[_block(prompt.system, cached=True)] if prompt.system else omit,
            messages=_messages(prompt),
            thinking={"type": "disabled"} if thinking == "disabled" else omit,
            stream=True,
            timeout=max(0.001, seconds),
        )
        message = _Message(self._listed, self._target, sent.response)
        async with sent, aclosing(self._read(sent.response, message)) as steps:
            async for step in steps:
                yield step

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


class _Message:
    """What the events of one message come to; see `events.Message`."""

    def __init__(self, listed: Model, target: Target, response: httpx2.Response) -> None:
        self.said: list[str] = []
        self.finished: Finished | None = None
        self._listed = listed
        self._target = target
        self._response = response
        self._read: dict[str, Any] = {}
        self._written = 0
        self._finish: str | None = None

    def take(self, event: Event) -> None:
        """Reads the next event."""
        if event.name == "content_block_delta":
            delta = json.loads(event.data)["delta"]
            if delta["type"] == "text_delta":
                self.said.append(delta["text"])
        elif event.name == "message_start":
            self._read = json.loads(event.data)["message"]["usage"]
        elif event.name == "message_delta":
            content = json.loads(event.data)
            self._written = content["usage"]["output_tokens"]
            self._finish = content["delta"]["stop_reason"]
        elif event.name == "message_stop":
            left = _left(self._response.headers)
            self.finished = Finished(self._reason(), self._spent(), left)
        elif event.name == "error":
            body = json.loads(event.data)
            raise APIStatusError("in a stream", response=self._response, body=body)

    def _reason(self) -> Finish:
        if self._finish == "refusal":
            raise ContentBlocked(self._target, code=self._finish)
        if self._finish not in FINISHES:
            raise MalformedResponse(self._target, code=self._finish or "")
        return FINISHES[self._finish]

    def _spent(self) -> Spent:
        if "input_tokens" not in self._read:
            return Spent(0, 0, 0, estimated=True)
        return accounting.spent(
            self._listed,
            input_tokens=self._read["input_tokens"],
            cached_tokens=self._read.get("cache_read_input_tokens") or 0,
            cache_write_tokens=self._read.get("cache_creation_input_tokens") or 0,
            output_tokens=self._written,
        )


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
