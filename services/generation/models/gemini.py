"""Language models of the Gemini API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from google.genai import types

from meshkit.providers import gemini
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import ContentBlocked, MalformedResponse, StreamTruncated, Target
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.events import Event
from services.generation.models.streaming import StreamingModel
from services.generation.rhythm import Rhythm

FINISHES = {"STOP": Finish.STOP, "MAX_TOKENS": Finish.MAX_TOKENS}
BLOCKED = frozenset({"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"})
ROLES = {Role.USER: "user", Role.ASSISTANT: "model"}


class GeminiModel(StreamingModel):
    """See `LanguageModel`. Gemini caches prompts by their beginnings without being told."""

    def __init__(self, model: Model, client: gemini.Client, gate: Gate, rhythm: Rhythm) -> None:
        super().__init__(model, gemini.classify, gate, rhythm)
        self._client = client

    async def _steps(
        self, prompt: Prompt, max_tokens: int, seconds: float, temperature: float | None
    ) -> AsyncGenerator[str | Finished, None]:
        config = types.GenerateContentConfig(
            system_instruction=prompt.system or None,
            max_output_tokens=max_tokens + self._listed.thinking_tokens,
            temperature=temperature,
            thinking_config=_thinking(self._listed.thinking),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            http_options=gemini.options(seconds),
        )
        with gemini.handed_over() as responses:
            chunks = await self._client.models.generate_content_stream(
                model=self.model, contents=_contents(prompt), config=config
            )
            # The call goes out with the first step, which finds nothing to read.
            await anext(aiter(chunks), None)
        if not responses:
            raise StreamTruncated(self._target)
        [response] = responses
        try:
            message = _Message(self._listed, self._target)
            async with aclosing(self._read(response, message)) as steps:
                async for step in steps:
                    yield step
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


class _Message:
    """What the events of one message come to; see `events.Message`."""

    def __init__(self, listed: Model, target: Target) -> None:
        self.said: list[str] = []
        self.finished: Finished | None = None
        self._listed = listed
        self._target = target
        self._usage: dict[str, int] = {}

    def take(self, event: Event) -> None:
        """Reads the next event."""
        content = json.loads(event.data)
        if "error" in content:
            raise gemini.from_body(content["error"].get("code", 0), content, self._target)
        self._usage = content.get("usageMetadata") or self._usage
        if reason := (content.get("promptFeedback") or {}).get("blockReason"):
            raise ContentBlocked(self._target, code=reason)
        for candidate in content.get("candidates", ())[:1]:
            for part in (candidate.get("content") or {}).get("parts", ()):
                if not part.get("thought"):
                    self.said.append(part.get("text", ""))
            if finish := candidate.get("finishReason"):
                self.finished = Finished(self._finish(finish), self._spent())

    def _finish(self, reason: str) -> Finish:
        if reason in BLOCKED:
            raise ContentBlocked(self._target, code=reason)
        if reason not in FINISHES:
            raise MalformedResponse(self._target, code=reason)
        return FINISHES[reason]

    def _spent(self) -> Spent:
        usage = self._usage
        if "promptTokenCount" not in usage:
            return Spent(0, 0, 0, estimated=True)
        cached = usage.get("cachedContentTokenCount", 0)
        return accounting.spent(
            self._listed,
            input_tokens=usage["promptTokenCount"] - cached,
            cached_tokens=cached,
            output_tokens=usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0),
        )


def _thinking(level: str) -> types.ThinkingConfig | None:
    return types.ThinkingConfig(thinking_level=types.ThinkingLevel(level)) if level else None


def _contents(prompt: Prompt) -> types.ContentListUnion:
    return [
        types.Content(role=ROLES[role], parts=[types.Part(text=m.text) for m in messages])
        for role, messages in prompt.turns
    ]
