"""Language models of the Cohere API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from cohere import AsyncClientV2
from cohere.core.http_sse import EventSource
from cohere.types import (
    AssistantChatMessageV2,
    ChatMessageV2,
    SystemChatMessageV2,
    UserChatMessageV2,
)

from meshkit.providers import cohere
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import (
    MalformedResponse,
    ServerFailed,
    StreamTruncated,
    TimedOut,
)
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Left, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.streaming import StreamingModel, drain

FINISHES = {
    "COMPLETE": Finish.STOP,
    "STOP_SEQUENCE": Finish.STOP,
    "MAX_TOKENS": Finish.MAX_TOKENS,
}


class CohereModel(StreamingModel):
    """See `LanguageModel`."""

    def __init__(self, model: Model, client: AsyncClientV2, gate: Gate) -> None:
        super().__init__(model, cohere.classify, gate)
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
            # The SDK's own reader skips an event that is no JSON, and logs what it says: the
            # answer would lack words that nobody misses.
            sent = EventSource(raw.response).aiter_sse()
            async for event in sent:
                if not event.data or event.data == "[DONE]":
                    continue
                content = json.loads(event.data)
                if content["type"] == "content-delta":
                    yield content["delta"]["message"]["content"].get("text", "")
                elif content["type"] == "message-end":
                    delta = content.get("delta") or {}
                    finish = self._finish(str(delta.get("finish_reason")))
                    # Keys of the free trial have this header, others no quota worth a name.
                    left = raw.response.headers.get("x-trial-endpoint-call-remaining", "")
                    yield Finished(
                        finish,
                        self._spent(delta.get("usage") or {}),
                        Left(int(left) if left.isdigit() else None),
                    )
                    await drain(sent)
                    return
        raise StreamTruncated(self._target)

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

    async def close(self) -> None:
        """Closes the connections."""
        await cohere.close(self._client)


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
