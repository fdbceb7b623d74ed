"""Deterministic vectors in which texts that share words lie near each other.

Each word and each of its longer beginnings is a feature; a feature adds a few signed
values at places that its hash names, so many in every 128 dimensions that a vector cut
short (Matryoshka) still tells texts apart. Common words count little. Numbers are the
same on every machine.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FULL = 3072
BLOCK, PLACES = 128, 3
STEM = 5
TASK_SHARE = 0.05
"""How much of a vector says what it was made for."""
_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_COMMON = """
    a an and are as at be been by can could did do does for from had has have how i in into is
    it its may me my no not of on or our should that the their them there they this to was we were
    what when where which who why will with would you your"""
COMMON = frozenset(_COMMON.split())


def words(text: str) -> list[str]:
    """Words in lower case; pairs of characters where no spaces are written."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if _CJK.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        else:
            found.append(word)
    return found


@lru_cache(maxsize=20_000)
def _feature(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places and signs of a feature in the full vector."""
    blocks = FULL // BLOCK
    raw = hashlib.shake_128(name.encode()).digest(blocks * PLACES * 2)
    values = np.frombuffer(raw, dtype=np.uint8).reshape(blocks * PLACES, 2)
    base = np.repeat(np.arange(blocks) * BLOCK, PLACES)
    return base + values[:, 0] % BLOCK, np.where(values[:, 1] & 1, 1.0, -1.0)


@lru_cache
def _bias(task: str) -> NDArray[np.float64]:
    """What a vector has of its task, at length 1."""
    places, signs = _feature(f"task {task}")
    bias = np.zeros(FULL)
    np.add.at(bias, places, signs)
    scaled: NDArray[np.float64] = bias / np.linalg.norm(bias)
    return scaled


def vector(text: str, task: str, dimensions: int) -> list[float]:
    """The vector of a text: the beginning of one of `FULL` values and length 1.

    Args:
        text: Any text.
        task: What it is for; vectors of two tasks differ a little.
        dimensions: Values wanted, at most `FULL`.
    """
    counts: dict[str, float] = {}
    for word in words(text):
        weight = 0.1 if word in COMMON else 1.0
        counts[word] = counts.get(word, 0.0) + weight
        if len(word) > STEM:
            stem = f"{word[:STEM]}-"
            counts[stem] = counts.get(stem, 0.0) + 0.7 * weight
    full = np.zeros(FULL)
    for name, amount in sorted(counts.items()):
        places, signs = _feature(name)
        np.add.at(full, places, signs * np.sqrt(amount))
    if not counts:
        places, signs = _feature("nothing")
        np.add.at(full, places, signs)
    full /= np.linalg.norm(full)
    full = (1 - TASK_SHARE) * full + TASK_SHARE * _bias(task)
    full /= np.linalg.norm(full)
    cut: list[float] = full[:dimensions].round(8).tolist()
    return cut


def normalised(values: list[float]) -> list[float]:
    """The values at length 1."""
    array = np.asarray(values)
    scaled: list[float] = (array / np.linalg.norm(array)).tolist()
    return scaled
