"""What every provider of language models looks like from inside the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Protocol


class Role(StrEnum):
    """Who said a message."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    text: str
    cached: bool = False
    """Whether everything up to its end is likely to come again and worth caching."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given."""

    system: str
    """Instructions, the same in every call."""
    messages: tuple[Message, ...]
    """The dialogue; the last message is the user's."""

    @property
    def turns(self) -> list[tuple[Role, list[Message]]]:
        """The dialogue with messages of the same role, one after the other, in one turn."""
        return [
            (role, list(messages))
            for role, messages in groupby(self.messages, key=lambda message: message.role)
        ]

    @property
    def texts(self) -> Sequence[str]:
        """Everything the model reads."""
        return [self.system, *(message.text for message in self.messages)]


class Finish(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    MAX_TOKENS = "max_tokens"


@dataclass(frozen=True, slots=True)
class Spent:
    """What one call took."""

    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    estimated: bool = False
    """Whether tokens were estimated, because the provider named none or never got so far."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of the running minute's quota, where the provider says."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The closing word of a stream."""

    finish: Finish
    spent: Spent
    left: Left = Left()


class LanguageModel(Protocol):
    """Writes text. Opened at the start of a process, closed at its end."""

    @property
    def provider(self) -> str:
        """Provider's name, such as `gemini`."""
        ...

    @property
    def model(self) -> str:
        """Model's name in the provider's spelling."""
        ...

    def estimate(self, prompt: Prompt, output_tokens: int, *, thinks: bool = True) -> Spent:
        """What reading a prompt and writing so many tokens takes, rather too much.

        Args:
            prompt: What is read.
            output_tokens: Of the text.
            thinks: Whether to count all the thoughts that the model may have beside it.
        """
        ...

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        seconds: float,
        patience: float,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Finished, None]:
        """Pieces of text, then one `Finished`. Closing the generator closes the connection.

        Args:
            prompt: What to read.
            max_tokens: Tokens the text may have.
            seconds: Time until its last piece.
            patience: Longest wait for any piece.
            temperature: Sampling temperature; None leaves it to the model. Models that take
                none ignore it.

        Raises:
            ProviderError: see `meshkit.providers.errors`; also after pieces of text.
        """
        ...

    async def close(self) -> None:
        """Gives back connections."""
        ...
