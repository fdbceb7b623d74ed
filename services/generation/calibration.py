"""What the signals are worth, for the models they were measured with.

`calibrations.toml` holds one entry for each cross-encoder and embedding space that were measured
together, and for questions in a language the cross-encoder was trained for and in others. It is
written by `make calibrate` and never by hand. A model without an entry gets no vote.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from services.generation.confidence import SIGNALS, Ballot, Vote

FILE = Path(__file__).with_name("calibrations.toml")
NOBODY = ""
"""As scorer: no cross-encoder scored the sentences."""


class CalibrationInvalid(ValueError):
    """The file holds something that is no calibration; the text says where."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A ballot, and where it comes from."""

    scorer: str
    """`provider/model` of the cross-encoder, or `NOBODY`."""
    space: str
    """Embedding space, `provider/model@dimensions`."""
    trained: bool
    """Whether it is for questions in a language the models were trained for."""
    ballot: Ballot
    datasets: Sequence[str]
    """Names of the data sets, each a random half of its questions."""
    date: str
    command: str


@dataclass(frozen=True, slots=True)
class Found:
    """The ballot for an answer."""

    ballot: Ballot
    uses_evidence: bool
    """Whether the scorer's logits may vote."""
    uses_similarity: bool
    """Whether cosines of the space may vote."""


def find(
    calibrations: Sequence[Calibration], scorer: str, space: str, *, trained: bool
) -> Found | None:
    """The ballot for the models that scored and embedded; None where none fits.

    A space that was not measured loses its vote, and so does a scorer: the others still
    know something.
    """
    fitting = [one for one in calibrations if one.trained == trained]
    for wanted, evidence in ((scorer, scorer != NOBODY), (NOBODY, False)):
        of_scorer = [one for one in fitting if one.scorer == wanted]
        for one in sorted(of_scorer, key=lambda one: one.space != space):
            return Found(one.ballot, evidence, one.space == space)
    return None


@cache
def load(path: Path = FILE) -> Sequence[Calibration]:
    """Every calibration of a file.

    Raises:
        CalibrationInvalid: naming the entry.
    """
    with path.open("rb") as file:
        content = tomllib.load(file)
    found = []
    for number, entry in enumerate(content.get("calibration", []), 1):
        try:
            found.append(_calibration(entry))
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationInvalid(f"{path.name}, entry {number}: {error!r}") from error
    return tuple(found)


def _calibration(entry: dict[str, Any]) -> Calibration:
    votes = {
        name: Vote(float(vote["weight"]), float(vote["centre"]), float(vote["spread"]))
        for name, vote in entry["votes"].items()
    }
    if unknown := votes.keys() - set(SIGNALS):
        raise ValueError(f"there is no signal {', '.join(sorted(unknown))}")
    if any(vote.spread <= 0 for vote in votes.values()):
        raise ValueError("a spread must be above 0")
    return Calibration(
        scorer=str(entry["scorer"]),
        space=str(entry["space"]),
        trained=bool(entry["trained"]),
        ballot=Ballot(
            float(entry["bias"]), votes, float(entry["answer"]), float(entry["verified"])
        ),
        datasets=tuple(map(str, entry["datasets"])),
        date=str(entry["date"]),
        command=str(entry["command"]),
    )
