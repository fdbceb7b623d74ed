"""Language models of the Cohere API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
from cohere import AsyncClientV2
from cohere.types import (
    AssistantChatMessageV2,
    ChatMessageV2,
    SystemChatMessageV2,
    UserChatMessageV2,
)

from meshkit.providers import cohere
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import MalformedResponse, ServerFailed, Target, TimedOut
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Left, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.events import Event
from services.generation.models.streaming import StreamingModel
from services.generation.rhythm import Rhythm

FINISHES = {
    "COMPLETE": Finish.STOP,
    "STOP_SEQUENCE": Finish.STOP,
    "MAX_TOKENS": Finish.MAX_TOKENS,
}


class CohereModel(StreamingModel):
    """See `LanguageModel`."""

    def __init__(self, model: Model, client: AsyncClientV2, gate: Gate, rhythm: Rhythm) -> None:
        super().__init__(model, cohere.classify, gate, rhythm)
        self._client = client

    async def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        # None would be sent as null, which the API refuses.
        sampling: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        async with self._client.with_raw_response.chat_stream(
            model=self.model,
            messages=_messages(prompt),
            max_tokens=max_tokens,
            request_options=cohere.options(seconds),
            **sampling,
        ) as raw:
            message = _Message(self._listed, self._target, raw.response)
            async with aclosing(self._read(raw.response, message)) as steps:
                async for step in steps:
                    yield step

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)


class _Message:
    """What the events of one message come to; see `events.Message`."""

    def __init__(self, listed: Model, target: Target, response: httpx.Response) -> None:
        self.said: list[str] = []
        self.finished: Finished | None = None
        self._listed = listed
        self._target = target
        self._response = response

    def take(self, event: Event) -> None:
        """Reads the next event."""
        if event.data == "[DONE]":
            return
        content = json.loads(event.data)
        if content["type"] == "content-delta":
            self.said.append(content["delta"]["message"]["content"].get("text", ""))
        elif content["type"] == "message-end":
            delta = content.get("delta") or {}
            finish = self._finish(str(delta.get("finish_reason")))
            # Keys of the free trial have this header, others no quota worth a name.
            left = self._response.headers.get("x-trial-endpoint-call-remaining", "")
            self.finished = Finished(
                finish,
                self._spent(delta.get("usage") or {}),
                Left(int(left) if left.isdigit() else None),
            )

    def _finish(self, reason: str) -> Finish:
        match reason:
            case "ERROR":
                raise ServerFailed(self._target, code=reason)
            case "TIMEOUT":
                raise TimedOut(self._target, code=reason)
            case _ if reason not in FINISHES:
                raise MalformedResponse(self._target, code=reason)
        return FINISHES[reason]

    def _spent(self, usage: dict[str, Any]) -> Spent:
        counted = usage.get("billed_units") or usage.get("tokens") or {}
        if "input_tokens" not in counted:
            return Spent(0, 0, 0, estimated=True)
        return accounting.spent(
            self._listed,
            input_tokens=int(counted["input_tokens"]),
            output_tokens=int(counted.get("output_tokens") or 0),
        )


def _messages(prompt: Prompt) -> list[ChatMessageV2]:
    found: list[ChatMessageV2] = []
    if prompt.system:
        found.append(SystemChatMessageV2(content=prompt.system))
    for role, messages in prompt.turns:
        text = "\n\n".join(message.text for message in messages)
        user = role is Role.USER
        found.append(
            UserChatMessageV2(content=text) if user else AssistantChatMessageV2(content=text)
        )
    return found
