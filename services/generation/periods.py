"""Periods that a question or a title names: quarters, halves and years. Pure.

`Q3 2022`, `2022 Q3`, `3Q22`, `third quarter of fiscal 2022`, `FY2023`, `2. Quartal 2023`, `2021`.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A year and, where one is named, the part of it; in order of time."""

    year: int
    """0 when only the part is named."""
    part: str = ""
    """`Q1` to `Q4`, `H1`, `H2`, or empty for the whole year."""

    def holds(self, other: "Period") -> bool:
        """Whether `other` is meant when this is asked for: each names no less than is asked."""
        same_year = not self.year or self.year == other.year
        return same_year and (not self.part or self.part == other.part)


_ORDINALS = {
    "first": "1", "1st": "1", "erste": "1", "ersten": "1", "1.": "1",
    "second": "2", "2nd": "2", "zweite": "2", "zweiten": "2", "2.": "2",
    "third": "3", "3rd": "3", "dritte": "3", "dritten": "3", "3.": "3",
    "fourth": "4", "4th": "4", "vierte": "4", "vierten": "4", "4.": "4",
}  # fmt: skip
_YEAR = r"(?:FY|fiscal(?: year)?|calendar(?: year)?|year|of|in|im|Jahr)?[\s_-]*(?:19|20)\d\d"
_ORDINAL = "|".join(re.escape(word) for word in sorted(_ORDINALS, key=len, reverse=True))
_PART = (
    rf"[QH][1-4]|[1-4][QH]|第[一二三四1-4]季度"
    rf"|(?:{_ORDINAL})[\s-]+(?:fiscal )?(?:quarter|quartal\w*|half|halbjahr\w*)"
)
_GAP = r"(?:[\s,_./-]*(?:of|in|for|des|im)?[\s,_./-]*(?:the )?)"
_NAMED = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?P<before>{_YEAR}){_GAP}(?P<part_after>{_PART})"
    rf"|(?P<part>{_PART})(?:{_GAP}(?P<after>{_YEAR}|(?:FY|')?\d\d(?!\d)))?"
    rf"|(?P<alone>(?:FY[\s_-]?|(?<!\d))(?:19|20)\d\d))(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_CHINESE = {"一": "1", "二": "2", "三": "3", "四": "4"}


def periods(text: str) -> tuple[Period, ...]:
    """Every period that is named, in the order of the text, each once.

    Parts that share one year written behind them ("Q1 and Q2 2023") all get it.
    """
    found: list[Period] = []
    for match in _NAMED.finditer(text):
        year = _year(match["before"] or match["after"] or match["alone"] or "")
        part = _part(match["part_after"] or match["part"] or "")
        found.append(Period(year, part))
    years = [period.year for period in found if period.year]
    completed: list[Period] = []
    for index, period in enumerate(found):
        if not period.year and years:
            later = [other.year for other in found[index:] if other.year]
            completed.append(Period(later[0] if later else years[-1], period.part))
        else:
            completed.append(period)
    return tuple(dict.fromkeys(completed))


def without_periods(text: str) -> str:
    """The text with the periods taken out."""
    return " ".join(_NAMED.sub(" ", text).split())


def _year(text: str) -> int:
    digits = re.search(r"(?:19|20)\d\d|\d\d", text)
    if not digits:
        return 0
    return int(digits.group()) if len(digits.group()) == 4 else 2000 + int(digits.group())


def _part(text: str) -> str:
    lowered = text.lower()
    if not lowered:
        return ""
    digit = re.search(r"[1-4]", lowered)
    if digit:
        number = digit.group()
    elif lowered.startswith("第"):
        number = _CHINESE[lowered[1]]
    else:
        number = _ORDINALS[re.split(r"[\s-]", lowered, maxsplit=1)[0]]
    half = "h" in lowered.replace("third", "").replace("fourth", "").replace("4th", "")
    quarterly = "q" in lowered or "季" in lowered
    return f"{'Q' if quarterly or not half else 'H'}{number}"
