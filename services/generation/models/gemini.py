"""Language models of the Gemini API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import httpx2
from google.genai import types

from meshkit.providers import gemini
from meshkit.providers.catalogue import Model
from meshkit.providers.errors import ContentBlocked, MalformedResponse, StreamTruncated
from meshkit.providers.gate import Gate
from services.generation.language_model import Finish, Finished, Prompt, Role, Spent
from services.generation.models import accounting
from services.generation.models.streaming import StreamingModel, drain

FINISHES = {types.FinishReason.STOP: Finish.STOP, types.FinishReason.MAX_TOKENS: Finish.MAX_TOKENS}
BLOCKED = frozenset(
    {
        types.FinishReason.SAFETY,
        types.FinishReason.RECITATION,
        types.FinishReason.LANGUAGE,
        types.FinishReason.BLOCKLIST,
        types.FinishReason.PROHIBITED_CONTENT,
        types.FinishReason.SPII,
    }
)
ROLES = {Role.USER: "user", Role.ASSISTANT: "model"}


class GeminiModel(StreamingModel):
    """See `LanguageModel`. Gemini caches prompts by their beginnings without being told."""

    def __init__(self, model: Model, client: gemini.Client, gate: Gate) -> None:
        super().__init__(model, gemini.classify, gate)
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
        responses: Sequence[httpx2.Response] = ()
        try:
            with gemini.opened() as responses:
                chunks = await self._client.models.generate_content_stream(
                    model=self.model, contents=_contents(prompt), config=config
                )
                # The call goes out with the first step.
                chunk = await anext(aiter(chunks), None)
            usage = None
            while chunk is not None:
                usage = chunk.usage_metadata or usage
                if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
                    raise ContentBlocked(self._target, code=chunk.prompt_feedback.block_reason.name)
                candidate = chunk.candidates[0] if chunk.candidates else None
                parts = ((candidate.content and candidate.content.parts) or []) if candidate else []
                for part in parts:
                    if part.text and not part.thought:
                        yield part.text
                if candidate and candidate.finish_reason:
                    yield Finished(self._finish(candidate.finish_reason), self._spent(usage))
                    await drain(chunks)
                    return
                chunk = await anext(aiter(chunks), None)
            raise StreamTruncated(self._target)
        finally:
            for response in responses:
                await response.aclose()

    def _finish(self, reason: types.FinishReason) -> Finish:
        if reason in BLOCKED:
            raise ContentBlocked(self._target, code=reason.name)
        if reason not in FINISHES:
            raise MalformedResponse(self._target, code=reason.name)
        return FINISHES[reason]

    def _spent(self, usage: types.GenerateContentResponseUsageMetadata | None) -> Spent:
        if usage is None or usage.prompt_token_count is None:
            return Spent(0, 0, 0, estimated=True)
        cached = usage.cached_content_token_count or 0
        return accounting.spent(
            self._listed,
            input_tokens=usage.prompt_token_count - cached,
            cached_tokens=cached,
            output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


def _thinking(level: str) -> types.ThinkingConfig | None:
    return types.ThinkingConfig(thinking_level=types.ThinkingLevel(level)) if level else None


def _contents(prompt: Prompt) -> types.ContentListUnion:
    return [
        types.Content(role=ROLES[role], parts=[types.Part(text=m.text) for m in messages])
        for role, messages in prompt.turns
    ]
