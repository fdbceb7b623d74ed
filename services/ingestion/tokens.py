"""Tokens as the embedding model counts them, from the space's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from meshkit import weights

_PIECE = 32_768
"""Characters tokenised at once: the time for one string grows faster than its length."""


class TokenCounter:
    """Tokenises texts of any length.

    Args:
        path: A `tokenizer.json`.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def offsets(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of every token, special ones left out, in characters."""
        for base, piece in _pieces(text):
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            for start, end in encoding.offsets:
                yield base + start, base + end


def for_space(space: str) -> TokenCounter:
    """The tokenizer of a space such as `local/bge-small-en-v1.5@384`.

    Providers' models other than the local ones do not publish theirs in a form
    that runs here; the default local one stands in for them, as WordPiece splits
    finer than they do and so errs on the safe side.
    """
    provider, _, rest = space.partition("/")
    model = rest.rpartition("@")[0]
    if provider != "local" or not model:
        model = next(name for name in weights.default_names() if weights.find(name).use == "embed")
    return TokenCounter(weights.ensure([model])[model].files["tokenizer.json"])


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in pieces that end at white space, each with its position."""
    start = 0
    while start < len(text):
        end = min(len(text), start + _PIECE)
        if end < len(text):
            space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = space + 1 if space > start else end
        yield start, text[start:end]
        start = end
