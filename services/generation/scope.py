"""Which documents a question is about, when it names them. Pure.

"How did Apple's net sales change across the quarters?" wants a figure of every quarterly report of
Apple, "in the latest 10-Q" one of the newest only. A ranking of passages cannot know that: of
reports that repeat each other it brings whichever happens to be worded best. So such a question is
searched once in each document it is about, and answered from each.

Documents are told apart by their titles: titles that differ only in a period (`2022 Q3 ACME.pdf`,
`2023 Q1 ACME.pdf`) are a series. Which series a name belongs to is seen from the passages found.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.generation.candidates import terms
from services.generation.names import names
from services.generation.passages import Passage
from services.generation.periods import Period, periods, without_periods

_LATEST = re.compile(
    r"\b(?:latest|most recent|newest|last (?:quarter|year|report|filing|10-[qk])|letzte[nrms]?"
    r"|neueste[nrms]?|jüngste[nrms]?|aktuelle[nrms]?)\b|最新|最近",
    re.IGNORECASE,
)
_ACROSS = re.compile(
    r"\b(?:over|across|through(?:out)?|during|between|in|for|from|each|every|all|these|those|the"
    r"|(?:the )?(?:previous|prior|earlier|past|last \w+|several))"
    r" (?:(?:of|the|these|those|its|their|past|last|previous|reported|reporting|different|various"
    r"|two|three|four|five|several|all) )*"
    r"(?:quarters|periods|years|reports|filings|10-[qk]s|quarterly reports|annual reports)\b"
    r"|\bover time\b|\b(?:each|every|the|per) (?:reported|reporting) (?:period|quarter|year)\b"
    r"|\b(?:each|every|per) (?:quarter|period|year|report|filing)\b"
    r"|'s? (?:quarterly|annual) reports\b|\b(?:previous|prior|earlier|past) ones\b"
    r"|\b(?:über|in|während) (?:die|den|alle[nr]?|mehrere[nr]?) (?:\w+ )?"
    r"(?:quartale?n?|jahren?|berichten?)\b"
    r"|\bim (?:zeit)?verlauf\b|各季度|历年|各期",
    re.IGNORECASE,
)
_COMPARES = re.compile(
    r"\b(?:compar\w+|versus|vs\.?|differ\w*|both|than|respectively|each|vergleich\w*"
    r"|unterschied\w*|beide[nrs]?)\b|比较|相比|区别",
    re.IGNORECASE,
)
_REPORTS = re.compile(
    r"\b(?:(?:as )?(?:reported|disclosed|stated|revealed|presented|mentioned|detailed)"
    r" (?:by|in|from)"
    r"|(?:in|from|for|of|by|to|the|its|their|this|that|these|those|same|an?|,|and|with|quarterly"
    r"|annual)*\s*"
    r"(?:10-[qk]s?(?: (?:report|filing)s?)?|quarterly reports?|annual reports?|filings?))\b",
    re.IGNORECASE,
)
_LOOSE = r"(?:in|for|of|from|by|to|the|its)"
_DANGLING = re.compile(rf"(?:^|(?<=\s))(?:{_LOOSE}\s+)*{_LOOSE}\s*(?=[,.?!]|$)", re.IGNORECASE)
_NO_NAME_WORDS = """january february march april may june july august september october november
    december fiscal quarter year"""
_NO_NAMES = frozenset(_NO_NAME_WORDS.split())


@dataclass(frozen=True, slots=True)
class Scope:
    """The documents a question names."""

    documents: tuple[tuple[str, ...], ...]
    """Groups of document ids; something of each is wanted."""
    question: str
    """What is asked of them: the question without the words that name them."""


@dataclass(frozen=True, slots=True)
class _Document:
    document_id: str
    title: str
    periods: tuple[Period, ...]
    series: str

    @property
    def latest(self) -> Period:
        return max(self.periods, default=Period(0))


def may_be_scoped(question: str) -> bool:
    """Whether it is worth looking which documents the question names: cheap, errs to yes."""
    return bool(
        periods(question)
        or _LATEST.search(question)
        or _ACROSS.search(question)
        or (_COMPARES.search(question) and len(_names(question)) > 1)
    )


def scope(question: str, found: Sequence[Passage], *, limit: int) -> Scope | None:
    """The documents to search one by one; None when the question names none.

    Args:
        question: As it is searched for.
        found: Passages of a wide search, best first; their titles and words tell which documents
            there are and which names they are about.
        limit: Most groups; of more documents the newest.
    """
    chosen = _series_asked_for(question, found)
    within = [document for document in _documents(found) if document.series in chosen]
    groups: list[tuple[str, ...]] = [
        (document.document_id,) for document in _picked(question, within)
    ]
    if not groups and len(chosen) > 1 and _COMPARES.search(question):
        groups = [
            tuple(document.document_id for document in within if document.series == series)
            for series in chosen
        ]
    if not groups:
        return None
    return Scope(tuple(groups[-limit:]), _remainder(question, _owners(question, chosen)))


def _picked(question: str, within: Sequence[_Document]) -> list[_Document]:
    """Of the named series the documents of the named periods, in order of time."""
    dated = sorted((d for d in within if d.periods), key=lambda d: (d.latest, d.title))
    asked = periods(question)
    if _ACROSS.search(question) and len(dated) > 1:
        return dated
    if asked:
        return [
            document
            for document in dated
            if any(wanted.holds(own) for wanted in asked for own in document.periods)
        ]
    if _LATEST.search(question):
        newest = {document.series: document.latest for document in dated}
        return [document for document in dated if document.latest == newest[document.series]]
    return []


def _owners(question: str, chosen: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Of the names of each series the one that says whose documents are meant.

    "AWS" tells Amazon's reports apart as well as "Amazon" does, but in "Amazon's revenue from AWS"
    it is what is asked for: a genitive is the owner, else the name that comes first.
    """
    asked = question.lower()
    owners: set[str] = set()
    for series_names in chosen.values():
        possessive = [n for n in series_names if f"{n}'s" in asked or f"{n}’s" in asked]
        owners.update(possessive or sorted(series_names, key=asked.find)[:1])
    return frozenset(owners)


def _remainder(question: str, named: frozenset[str]) -> str:
    """The question without names, periods and reports; whole when nothing would be left."""
    rest = _LATEST.sub(" ", _ACROSS.sub(" ", question))
    rest = without_periods(rest)
    for name in named:
        rest = re.sub(rf"(?<!\w){re.escape(name)}(?:'s|’s)?(?!\w)", " ", rest, flags=re.IGNORECASE)
    rest = _REPORTS.sub(" ", rest)
    rest = re.sub(r"\s+([,.?!])", r"\1", " ".join(_DANGLING.sub("", rest).split())).lstrip(" ,.")
    return rest if terms(rest) else question


def _documents(found: Sequence[Passage]) -> list[_Document]:
    titles = {passage.chunk.document_id: passage.chunk.title for passage in found}
    return [
        _Document(document_id, title, periods(title), _series(title))
        for document_id, title in titles.items()
    ]


def _series(title: str) -> str:
    """What titles of one series share: their words without the period, in any order."""
    stem = re.sub(r"\.\w{2,5}$", "", title)
    return " ".join(sorted(set(terms(without_periods(stem)))))


def _names(question: str) -> frozenset[str]:
    """Capitalised names, without months and abbreviations such as R&D."""
    return frozenset(
        name
        for name in names(question)
        if name not in _NO_NAMES and not re.fullmatch(r"\w&\w", name)
    )


def _series_asked_for(question: str, found: Sequence[Passage]) -> dict[str, list[str]]:
    """The series that the question's names belong to, best first, with these names.

    A name tells series apart when the passages of one mention it much more often than the others'.
    Without such a name the series is the one of the best passages.
    """
    of = {document.document_id: document.series for document in _documents(found)}
    weight: dict[str, float] = defaultdict(float)
    total: Counter[str] = Counter()
    for rank, passage in enumerate(found):
        series = of[passage.chunk.document_id]
        weight[series] += 1 / (10 + rank)
        total[series] += 1
    if not total:
        return {}
    chosen: dict[str, list[str]] = defaultdict(list)
    asked_names = _names(question)
    held_at_all = not asked_names
    for name in asked_names:
        pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        held: Counter[str] = Counter()
        for passage in found:
            chunk = passage.chunk
            text = " ".join((chunk.title, *chunk.location.headings, chunk.text))
            held[of[chunk.document_id]] += pattern.search(text) is not None
        shares = sorted(((held[s] / (total[s] + 1), s) for s in total), reverse=True)
        best, series = shares[0]
        held_at_all = held_at_all or best > 0
        runner_up = shares[1][0] if len(shares) > 1 else 0.0
        if best > 0 and best >= 3 * runner_up:
            chosen[series].append(name)
    if not chosen and not held_at_all:
        return {}
    if not chosen:
        return {max(weight, key=lambda series: weight[series]): []}
    ordered = sorted(chosen, key=lambda series: -weight[series])
    return {s: chosen[s] for s in ordered if 3 * weight[s] >= weight[ordered[0]]}
