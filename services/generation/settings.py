"""Settings of the generation service."""

from pydantic import Field, field_validator

from meshkit.settings import ServiceSettings

PROVIDERS = ("local",)
"""Providers this version can call."""


class GenerationSettings(ServiceSettings, service="generation"):
    """What generation can be told."""

    providers: str = "local"
    """Providers of answers in the order they are tried, separated by commas; `local` quotes."""
    release: str = Field("stream", pattern="^(stream|sentence|whole)$")
    """When text leaves the output filter: `stream`, `sentence` by sentence, or the `whole` answer
    after every check."""
    answer_seconds: float = Field(30.0, gt=0)
    """Time an answer has when its caller sets no deadline."""
    passages: int = Field(8, ge=1, le=20)
    """Passages an answer is made from."""
    scored_sentences: int = Field(14, ge=2, le=64)
    """Sentences the local answerer has scored; each costs 6 to 11 ms of a core."""
    answer_logit: float = -4.0
    """Best sentence below this logit: the answer says that it does not know."""
    cache_hours: float = Field(24.0, ge=0)
    """How long an answer may be served again over an unchanged corpus; 0 turns the cache off."""
    conversation_days: float = Field(30.0, gt=0)
    """How long conversations, answers and feedback are kept after their last use."""

    @field_validator("providers")
    @classmethod
    def _known(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        unknown = [name for name in names if name not in PROVIDERS]
        if unknown or not names:
            known = ", ".join(PROVIDERS)
            listed = ", ".join(unknown) or "nothing"
            raise ValueError(f"names {listed}, but this version can call only {known}")
        return ",".join(names)
