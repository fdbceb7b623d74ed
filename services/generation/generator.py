"""What every provider of answers offers."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from meshkit.usage import Spend
from services.generation.answers import Draft, Switched
from services.generation.passages import Passage


class Generator(Protocol):
    """Writes an answer from passages."""

    @property
    def provider(self) -> str:
        """Provider's name, such as `local`."""
        ...

    @property
    def model(self) -> str:
        """Model's name in the provider's spelling; part of the answer cache's key."""
        ...

    def estimate_micro_usd(self, question: str, max_tokens: int) -> int:
        """Most an answer may cost, in millionths of a dollar; reserved before anything happens."""
        ...

    def write(
        self,
        question: str,
        passages: Sequence[Passage],
        *,
        max_tokens: int,
        seconds: float,
        spend: Spend,
        so_far: Callable[[], str],
    ) -> AsyncGenerator[str | Switched | Draft, None]:
        """Pieces of text, then one Draft.

        In the middle of a text, `Switched` says that another provider goes on. What the reader
        then still has is in `so_far`; the text behind it continues that, or starts over when it
        is empty or the switch says `restarted`.

        Args:
            question: What to answer, a follow-up completed with its history.
            passages: Sources, best first; none is flagged.
            max_tokens: Tokens the text may have.
            seconds: Time there is.
            spend: Told what each call to a model took, whatever became of it.
            so_far: What the reader has of the answer; asked after a switch.

        Raises:
            MeshError: nobody could write, or not to the end.
        """
        ...
