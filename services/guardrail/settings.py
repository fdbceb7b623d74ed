"""Settings of the guardrail service."""

from pydantic import Field

from meshkit.settings import ServiceSettings


class GuardrailSettings(ServiceSettings, service="guardrail"):
    """What the guardrail can be told."""

    max_question_characters: int = Field(4096, ge=1, le=8192)
    """Longest question that passes, in characters."""
    injection_block_score: float = Field(0.6, ge=0, le=1)
    """An injection finding with at least this confidence blocks a question."""
    chunk_block_score: float = Field(0.6, ge=0, le=1)
    """An injection finding with at least this confidence keeps a chunk out of prompts."""
    grounding_overlap: float = Field(0.6, ge=0, le=1)
    """Share of a sentence's content words that its source must hold to support it."""
    max_answer_characters: int = Field(200_000, ge=1_000)
    """Longest answer that is filtered; a longer one ends with ANSWER_TOO_LONG."""
