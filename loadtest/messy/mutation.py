"""Files broken in the ways files break: flipped bits, cut ends, exchanged heads. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MOST_FLIPS = 200
_LONGEST_HEAD = 64
_LONGEST_SPLICE = 4096


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken file."""

    name: str
    content: bytes


def mutants(files: Sequence[tuple[str, bytes]], count: int, seed: int) -> Iterator[Mutant]:
    """The same mutants for the same files and seed.

    Args:
        files: Names and contents to break, in turn.
        count: How many.
        seed: Of the randomness.
    """
    chance = random.Random(seed)
    whole = [(name, content) for name, content in files if content]
    ways = (_flipped, _truncated, _beheaded, _spliced)
    for number in range(count):
        name, content = whole[number % len(whole)]
        _, other = chance.choice(whole)
        way = chance.choice(ways)
        stem, dot, suffix = name.rpartition(".")
        label = f"{number:04d}-{way.__name__[1:]}-{stem or suffix}{dot if stem else ''}"
        yield Mutant(f"{label}{suffix if stem else ''}", way(content, other, chance))


def _flipped(content: bytes, _: bytes, chance: random.Random) -> bytes:
    broken = bytearray(content)
    for _flip in range(chance.randint(1, _MOST_FLIPS)):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def _truncated(content: bytes, _: bytes, chance: random.Random) -> bytes:
    return content[: chance.randint(1, len(content))]


def _beheaded(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Begins as another file does."""
    length = chance.randint(4, _LONGEST_HEAD)
    return other[:length] + content[length:]


def _spliced(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Holds a piece of another file, or of noise, in its middle."""
    at, length = chance.randrange(len(content)), chance.randint(1, _LONGEST_SPLICE)
    start = chance.randrange(len(other))
    piece = other[start : start + length] if chance.random() < 0.5 else chance.randbytes(length)
    return content[:at] + piece + content[at + length :]
