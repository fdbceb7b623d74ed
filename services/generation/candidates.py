"""Which sentences of the passages are worth asking the cross-encoder about. Pure and cheap.

A pair of question and sentence costs the cross-encoder 6 to 9 ms, so it sees the best dozen by
shared words (rare ones count more), numbers where the question wants one, and place.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from services.generation.names import names
from services.generation.passages import Passage, units


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence or row that may answer."""

    passage: Passage
    start: int
    """First character in the passage's chunk."""
    end: int
    order: int
    """Place among all candidates in reading order, passage by passage."""
    is_row: bool
    heading: str = ""
    """The nearest heading above it inside its chunk; empty when the chunk has none."""
    share: float = 0.0
    """Of the question's words, weighed by how rare they are in what was found, the part that it
    and the place it stands at hold; 0 to 1."""

    @property
    def text(self) -> str:
        """The verbatim characters of the source."""
        return self.passage.chunk.text[self.start : self.end]

    @property
    def scored_text(self) -> str:
        """What the cross-encoder reads: where the sentence stands, then the sentence."""
        chunk = self.passage.chunk
        place = [_clip(chunk.title, 60)]
        above = self.heading or (chunk.location.headings[-1] if chunk.location.headings else "")
        if above:
            place.append(_clip(above, 80))
        return f"{' - '.join(part for part in place if part)}: {_clip(flat(self.text), 500)}"


_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_WANTS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|old|far|often|large|big|high|tall)|when|which year|in what year"
    r"|what (?:year|date|percent\w*|amount|number|share|price|rate)|total|wie ?viel\w*|wann"
    r"|cuánt\w+|combien|quand)\b|多少|几|什么时候|何时",
    re.IGNORECASE,
)
_COMMON_WORDS = """
    a an and are as at be been by did do does for from had has have how in is it its many much of
    on or that the their there these this to was were what when where which who whom whose why
    will with
    der die das den dem des und oder in im zu zum zur von vom für mit auf aus bei nach über um durch
    wie was wer wen wem wo wann warum wieso welche welcher welches welchen welchem ist sind wird
    wurde wurden werden hatte haben ein eine einen einem einer eines sich nicht auch als dass es
    le la les un une des du de et ou en dans pour par sur avec est sont quel quelle quels quelles
    qui que où quand comment pourquoi combien
    el los las una y o del con por para es son qué cuál quién cuándo dónde cómo
    il lo gli di che e per è sono quale chi quando dove come perché
    het een en van op met voor zijn wat welke wie waar wanneer hoe"""
_COMMON = frozenset(_COMMON_WORDS.split())
_STEM = 7
_MINIMUM_CHARACTERS = 12
_MAXIMUM_CHARACTERS = 700
_ENDS_IN_PAGE = re.compile(r"\|\s*(?:page\s*)?\d{1,4}$")
_PLAIN_WORDS = re.compile(r"[A-Za-zÀ-ɏ]+(?:\s+[A-Za-zÀ-ɏ]+)*")
_DIGITS = re.compile(r"\d+")
_HEADING = re.compile(
    r"(?:#{1,6}\s+|(?:§\s*\d{1,3}|\d{1,3}(?:\.\d{1,3})+\.?|\d{1,3}\.)\s+(?=[^\W\d_a-z]))"
    r"(?P<text>[^.?!;:]{2,80})"
)
"""A line of Markdown or with a number that heads what follows: `## Leave`, `2.1 Vacation`."""


def flat(text: str) -> str:
    """One space between words: how a quote is shown inside an answer."""
    return " ".join(text.split())


def terms(text: str) -> list[str]:
    """Words to compare by, without function words; pairs where no spaces are written.

    Lower case, without accents, a plural's s and what stands behind the seventh letter: endings
    differ, in German more than in English.
    """
    found: list[str] = []
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        if _CJK.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in _COMMON:
            found.append(_stem(word))
    return found


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    if not word.isascii():
        parts = unicodedata.normalize("NFKD", word)
        word = "".join(part for part in parts if not unicodedata.combining(part))
    word = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return word[:_STEM] if word.isalpha() else word


def candidates(question: str, passages: Sequence[Passage], limit: int) -> list[Candidate]:
    """The most promising sentences, at most `limit`, best first."""
    pool = list(_all(passages))
    if not pool:
        return []
    held = [Counter(terms(candidate.text)) for candidate in pool]
    places = [
        frozenset([*_place_terms(candidate.passage), *terms(candidate.heading)])
        for candidate in pool
    ]
    wanted = list(dict.fromkeys(terms(question)))
    weights = _rarity(wanted, held)
    wants_number = _WANTS_NUMBER.search(question) is not None
    ranks = {passage.marker: rank for rank, passage in enumerate(passages)}
    titles = {passage.marker: title_match(question, passage) for passage in passages}
    total = sum(weights.values()) or 1.0
    scores: list[float] = []
    before = 0.0
    for index, candidate in enumerate(pool):
        own = sum(weights[term] for term in wanted if term in held[index])
        own += 0.3 * sum(
            weights[term] for term in wanted if term in places[index] and term not in held[index]
        )
        pool[index] = replace(candidate, share=min(1.0, own / total))
        own /= 1 + 0.004 * max(0, len(candidate.text) - 200)
        score = own + (0.15 * before if candidate.start else 0.0)
        if wants_number and any(character.isdigit() for character in candidate.text):
            score += 0.15 * total / max(1, len(weights))
        score += 0.5 / (1 + ranks[candidate.passage.marker])
        score += 0.5 * titles[candidate.passage.marker]
        scores.append(score)
        before = own
    best = sorted(range(len(pool)), key=lambda index: (-scores[index], index))
    return [pool[index] for index in best[:limit]]


def _all(passages: Sequence[Passage]) -> Iterable[Candidate]:
    seen: set[str] = set()
    order = 0
    running = _running_lines(passages)
    for passage in passages:
        headings = {flat(heading).lower() for heading in passage.chunk.location.headings}
        above = ""
        for unit in units(passage.chunk.text):
            text = unit.of(passage.chunk.text)
            key = flat(text).lower()
            if heading := _HEADING.fullmatch(flat(text)):
                above = heading["text"]
                continue
            # Chunks overlap and filings repeat themselves: the better passage keeps the sentence.
            same = f"{passage.chunk.document_id}\n{key}"
            if same in seen or not _answers(key) or _masked(key) in running:
                continue
            if key in headings or _is_fragment(text, is_row=unit.is_row):
                continue
            seen.add(same)
            yield Candidate(passage, unit.start, unit.end, order, unit.is_row, above)
            order += 1


def _answers(line: str) -> bool:
    """Whether a line can be an answer: no question, no announcement, no table run together."""
    fits = _MINIMUM_CHARACTERS <= len(line) <= _MAXIMUM_CHARACTERS
    return fits and not line.endswith(("?", ":"))


def _is_fragment(text: str, *, is_row: bool) -> bool:
    """Whether a line is the head of a statement or of a column, and no statement itself."""
    if text.endswith(",") or is_row:
        return text.endswith(",")
    if len(text.split()) < 4 and _PLAIN_WORDS.fullmatch(text):
        return True
    letters = [character for character in text if character.isalpha()]
    return 5 * sum(character.isupper() for character in letters) > 4 * len(letters)


def _running_lines(passages: Sequence[Passage]) -> set[str]:
    """Lines such as `Apple Inc. | Q3 2022 Form 10-Q | 18` that stand on several pages."""
    found: Counter[str] = Counter()
    for passage in passages:
        lines = {flat(line).lower() for line in passage.chunk.text.split("\n")}
        found.update(_masked(line) for line in lines if _ENDS_IN_PAGE.search(line))
    return {line for line, count in found.items() if count > 1}


def _masked(line: str) -> str:
    return _DIGITS.sub("#", line)


def _rarity(wanted: Sequence[str], held: Sequence[Counter[str]]) -> dict[str, float]:
    total = len(held)
    return {
        term: math.log(1 + total / (1 + sum(term in terms_of for terms_of in held)))
        for term in wanted
    }


def _place_terms(passage: Passage) -> list[str]:
    return terms(f"{passage.chunk.title} {' '.join(passage.chunk.location.headings)}")


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


_ASKS_WHY = re.compile(
    r"\b(?:why|how (?:did|does|do|has|have)|explain|reasons?|warum|wieso)\b", re.IGNORECASE
)


_ASKS_AMOUNT = re.compile(
    r"\bhow (?:many|much)\b|\bwie ?viele?\b|\bcombien\b|\bcuánt", re.IGNORECASE
)
_SAYS_AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred"
    r"|thousand|million|billion|half|third|quarter|no|none|both|dozen)\b",
    re.IGNORECASE,
)


def lacks_amount(question: str, candidate: Candidate) -> bool:
    """Whether the question asks how much or how many and the candidate says no number."""
    return bool(_ASKS_AMOUNT.search(question)) and not _SAYS_AMOUNT.search(candidate.text)


_QUARTERS = (("first", "q1"), ("second", "q2"), ("third", "q3"), ("fourth", "q4"))


def title_match(question: str, passage: Passage) -> int:
    """How many of the question's words the document's title holds."""
    return len(_in_title(question, passage))


def title_names(question: str, passage: Passage) -> int:
    """How many of the question's numbers and names the document's title holds.

    Of the filings of several quarters the title alone may say which one a figure belongs to. A
    word such as "policy" in a title says nothing of the kind.
    """
    of_question = names(question)
    return sum(
        word in of_question or any(character.isdigit() for character in word)
        for word in _in_title(question, passage)
    )


def _in_title(question: str, passage: Passage) -> set[str]:
    asked = question.lower()
    for word, short in _QUARTERS:
        asked = asked.replace(f"{word} quarter", f"{word} quarter {short}")
    return set(terms(asked)) & set(terms(passage.chunk.title))


def is_named_row(question: str, candidate: Candidate) -> bool:
    """Whether the candidate is a row of figures whose label the question names in full.

    Cross-encoders are trained on prose and place "Total net sales 82,959 81,434" behind any
    sentence about net sales; to "what were the total net sales" it is the answer.
    """
    if not candidate.is_row or _ASKS_WHY.search(question):
        return False
    label = {term for term in terms(candidate.text) if not term[0].isdigit()} - {"total"}
    return bool(label) and label <= set(terms(question))


def coverage(question: str, candidate: Candidate) -> float:
    """Share of the question's words that the sentence or the place it stands at holds, 0 to 1."""
    wanted = set(terms(question))
    held = set(terms(candidate.text)) | set(_place_terms(candidate.passage))
    return len(wanted & held) / len(wanted) if wanted else 0.0


def alike(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates say nearly the same, as filings of two quarters do."""
    left, right = set(terms(one.text)), set(terms(other.text))
    return len(left & right) > 0.8 * max(1, min(len(left), len(right)))
