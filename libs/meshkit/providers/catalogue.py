"""The models that can be called, from `catalogue.toml`: limits and prices, with a date."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

from meshkit.errors import NotFound, Unsupported

VARIABLE = "CITEMESH_PROVIDER_CATALOGUE"
DOCUMENTS_PER_SEARCH = 100
"""A search that is sold by the piece covers so many passages."""


class Operation(StrEnum):
    """What a model is called for."""

    EMBED = "embed"
    RERANK = "rerank"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a provider; 0 and empty mean that there is no such limit or price."""

    provider: str
    operation: Operation
    model: str
    """In the provider's spelling."""
    default: bool = False
    """Taken where only the provider is named."""
    context_tokens: int = 0
    """Tokens of a request; of one text for embeddings and rerank."""
    max_output_tokens: int = 0
    texts_per_call: int = 0
    dimensions: tuple[int, ...] = ()
    """Lengths an embedding can have, the model's own first."""
    normalized_dimensions: tuple[int, ...] | None = None
    """Lengths at which the provider normalises; None means all."""
    input: float = 0.0
    """US dollars for a million tokens."""
    output: float = 0.0
    cached_input: float | None = None
    """Tokens read from the provider's cache; None means they cost as much as others."""
    cache_write: float | None = None
    """Tokens written to it."""
    search: float = 0.0
    """US dollars for a thousand searches."""
    long_prompt_tokens: int = 0
    """A longer prompt costs `long_prompt_factor` times as much, all of it."""
    long_prompt_factor: float = 1.0
    thinking: str = ""
    """What the provider is told about thinking; empty says nothing."""
    thinking_tokens: int = 0
    """Output tokens left to it beside those of the answer."""
    languages: tuple[str, ...] = ()
    """It was trained for, by ISO 639-1; empty means any."""
    patience_seconds: float = 0.0
    """Within which a rerank nearly always answers."""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    requests_per_day: int = 0

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model}"

    def cost_micro_usd(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        searches: float = 0,
    ) -> int:
        """What a call costs, in millionths of a US dollar, rounded up.

        Args:
            input_tokens: Tokens read, without those of the two following.
            output_tokens: Tokens written, thoughts included.
            cached_tokens: Tokens that came from the provider's cache.
            cache_write_tokens: Tokens put into it.
            searches: Reranks of up to `DOCUMENTS_PER_SEARCH` passages.
        """
        cached = self.input if self.cached_input is None else self.cached_input
        written = self.input if self.cache_write is None else self.cache_write
        # Dollars a million are millionths of a dollar a piece.
        cost = (
            input_tokens * self.input
            + output_tokens * self.output
            + cached_tokens * cached
            + cache_write_tokens * written
        )
        prompt = input_tokens + cached_tokens + cache_write_tokens
        if self.long_prompt_tokens and prompt > self.long_prompt_tokens:
            cost *= self.long_prompt_factor
        # 0.1 + 0.2 must not cost a whole millionth more than 0.3.
        return math.ceil(round(cost + searches * self.search * 1000, 6))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every known model."""

    as_of: date
    """Day on which prices and limits were looked up."""
    models: tuple[Model, ...]

    def find(self, provider: str, operation: Operation, model: str = "") -> Model:
        """A model; the provider's default one without a name.

        Raises:
            Unsupported: PROVIDER_UNSUPPORTED: the provider does nothing of the kind.
            NotFound: MODEL_UNLISTED: no limits and no price are known for it.
        """
        offered = [m for m in self.models if (m.provider, m.operation) == (provider, operation)]
        if not offered:
            able = sorted({m.provider for m in self.models if m.operation is operation})
            raise Unsupported(
                "PROVIDER_UNSUPPORTED",
                f"{provider} cannot be used to {operation}; {', '.join([*able, 'local'])} can.",
            )
        for found in offered:
            if found.model == model or (not model and found.default):
                return found
        raise NotFound(
            "MODEL_UNLISTED",
            f"Nothing is known of what {provider}/{model} costs and allows: name one of "
            f"{', '.join(m.model for m in offered)}, or list it in the file that {VARIABLE} names.",
        )


def load(override: Path | None = None) -> Catalogue:
    """The catalogue that comes with the code, changed by a file.

    Raises:
        ValueError: the file cannot be read or has something that a catalogue has not.
    """
    own = resources.files("meshkit.providers").joinpath("catalogue.toml").read_text("utf-8")
    content = tomllib.loads(own)
    entries = {_key(entry): entry for entry in content["model"]}
    as_of: date = content["as_of"]
    if override is not None:
        try:
            changes = tomllib.loads(override.read_text("utf-8"))
            for entry in changes.get("model", []):
                entries[_key(entry)] = {**entries.get(_key(entry), {}), **entry}
        except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{VARIABLE}: {override} is no catalogue: {error}") from None
        as_of = changes.get("as_of", as_of)
    return Catalogue(as_of, tuple(_model(entry) for entry in entries.values()))


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return entry["provider"], entry["operation"], entry["model"]


def _model(entry: Mapping[str, Any]) -> Model:
    unknown = set(entry) - {field.name for field in fields(Model)}
    if unknown:
        raise ValueError(f"{VARIABLE}: {entry['model']} has {', '.join(sorted(unknown))}.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    values["operation"] = Operation(entry["operation"])
    return Model(**values)


def estimated_tokens(texts: Sequence[str]) -> int:
    """At most about how many tokens texts have, where nobody counts them for us.

    English has four characters a token; scripts without an alphabet about one.
    """
    found = 0
    for text in texts:
        ascii_letters = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        found += math.ceil(ascii_letters / 3) + len(text) - ascii_letters
    return found
