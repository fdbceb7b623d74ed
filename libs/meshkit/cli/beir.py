"""Data sets in the layout of BEIR (Thakur et al. 2021).

corpus.jsonl     {"_id", "title", "text"}
queries.jsonl    {"_id", "text"}
qrels/SPLIT.tsv  query-id, corpus-id, score; the first line names the columns

Flat copies are read too: `qrels.SPLIT.tsv` or, for the split `test`, `qrels.tsv`,
and a split's own `queries.SPLIT.jsonl`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


class DatasetInvalid(ValueError):
    """The directory holds no such data set; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A text of the corpus, or a file."""

    id: str
    title: str
    text: str
    path: Path | None = None
    """Where it lies, for a file."""

    def as_file(self) -> bytes:
        """The text as it is uploaded: title and text in one, as BEIR's own baselines do."""
        return f"{self.title}\n\n{self.text}".strip().encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that was read."""

    name: str
    split: str
    corpus: tuple[Entry, ...]
    asked: dict[str, str]
    """Text by query id, judged or not."""
    relevance: dict[str, dict[str, int]]
    """Gain by corpus id, by query id."""
    metadata: dict[str, Mapping[str, Any]]
    """What else the data set says of a query, by query id."""

    @property
    def queries(self) -> dict[str, str]:
        """Text by query id, only queries that have a judgement."""
        return {name: text for name, text in self.asked.items() if name in self.relevance}

    def first(self, count: int) -> Dataset:
        """The data set with its first judged queries only; 0 keeps all."""
        if not count:
            return self
        return replace(self, asked=dict(list(self.queries.items())[:count]))


def load(directory: Path, split: str = "test") -> Dataset:
    """Reads a data set.

    Raises:
        DatasetInvalid: a file is missing or a line of it is not what it should be.
    """
    judged = directory / "qrels" / f"{split}.tsv"
    flat = [directory / f"qrels.{split}.tsv", *([directory / "qrels.tsv"] * (split == "test"))]
    relevance = _judgements(next((path for path in (judged, *flat) if path.exists()), judged))
    corpus = tuple(
        Entry(str(line["_id"]), str(line.get("title") or ""), str(line["text"]))
        for line in lines(directory / "corpus.jsonl", ("_id", "text"))
    )
    own = directory / f"queries.{split}.jsonl"
    asked = {
        str(line["_id"]): line
        for line in lines(own if own.exists() else directory / "queries.jsonl", ("_id", "text"))
    }
    if not asked.keys() & relevance.keys():
        raise DatasetInvalid(f"No query of {directory} has a judgement of the split {split}.")
    return Dataset(
        directory.resolve().name,
        split,
        corpus,
        {name: str(line["text"]) for name, line in asked.items()},
        relevance,
        {name: line.get("metadata") or {} for name, line in asked.items()},
    )


def lines(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, each with the fields it must have.

    Raises:
        DatasetInvalid: there is no such file, or a line is something else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                entry = json.loads(line)
                if not isinstance(entry, dict) or any(name not in entry for name in required):
                    raise DatasetInvalid(f"{path}:{number} lacks {' or '.join(required)}.")
                yield entry
    except FileNotFoundError:
        raise DatasetInvalid(f"There is no {path}; a data set is laid out as BEIR's.") from None
    except ValueError as error:
        if isinstance(error, DatasetInvalid):
            raise
        raise DatasetInvalid(f"{path} is not made of JSON lines: {error}.") from None


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    relevance: dict[str, dict[str, int]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t"), 1):
                if number == 1 and row and not row[-1].lstrip("-").isdigit():
                    continue
                query, document, gain = row
                relevance.setdefault(query, {})[document] = int(gain)
    except FileNotFoundError:
        raise DatasetInvalid(f"There is no {path}; a data set is laid out as BEIR's.") from None
    except ValueError:
        raise DatasetInvalid(f"{path}:{number} is not query, document, score.") from None
    return relevance
