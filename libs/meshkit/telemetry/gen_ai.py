"""Attributes of calls to models, by OpenTelemetry's conventions for generative AI.

The conventions are in development and change their names: they are spelled here and nowhere
else. As of opentelemetry-semantic-conventions 0.66b2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

OPERATIONS: Final = {"generate": "chat", "embed": "embeddings", "rerank": "rerank"}
"""Their names for ours. They have none for reranking."""

PROVIDERS: Final = {"gemini": "gcp.gemini", "anthropic": "anthropic", "cohere": "cohere"}
"""Their names for the providers."""


def messages(said: Iterable[tuple[str, str]]) -> str:
    """Role and text of each message as the conventions want them: JSON with parts."""
    return json.dumps(
        [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in said],
        ensure_ascii=False,
    )
