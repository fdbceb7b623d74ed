"""Whether a model was trained for the language of a text."""

from __future__ import annotations

from collections.abc import Collection

from meshkit import weights
from meshkit.language import Language

SURE = 0.3
"""Probability from which a language is believed. Of XQuAD's questions 99.8 % of the German,
all Chinese and 0.3 % of the English ones are then said to be in another than English."""


def covers(languages: Collection[str], language: Language) -> bool:
    """Whether a model may be used on a text.

    Args:
        languages: Codes of those it was trained for; empty means any.
        language: Of the text. One that is not sure counts as covered: a name or a
            number is in every language.
    """
    return not languages or language.code in languages or language.probability < SURE


def space_languages(space: str) -> Collection[str]:
    """Languages that the model of `provider/model@dimensions` was trained for; empty means any.

    Providers' models are multilingual unless their name says otherwise.
    """
    provider, _, rest = space.partition("/")
    model = rest.rpartition("@")[0]
    known = weights.manifest().get(model) if provider == "local" else None
    if known is not None:
        return known.languages
    return ("en",) if "english" in model.split("-") else ()
