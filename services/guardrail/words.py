"""What grounding compares: content words, numbers, names and negations of a text."""

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?", re.UNICODE)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w]*\d)")
_NAME = re.compile(r"(?<![\w])[A-ZÀ-ÖØ-Þ][\w’'&-]*\w")

_STOPWORDS = """
a about after all also am an and any are as at be because been before being both but by can
    could did do does during each for from further had has have having he her here hers him his how
    i if in into is it its itself may me might more most must my of off on once only or other our
    ours out over own per same shall she should so some such than that the their them then there
    these they this those through to too under until up upon us very was we were what when where
    which while who whom whose why will with would you your yours
    aber als am an auch auf aus bei bis da das dass dem den der des die dies diese dieser dieses du
    durch ein eine einem einen einer eines er es für hat haben ich ihr im in ist ja kann mit nach
    oder sein sich sie sind so um und uns vom von vor war waren was wer wie wird wir wo zu zum zur
    au aux avec ce ces dans de des du elle en est et il ils la le les leur mais ne nous on ou par
    pas pour qu que qui sa se ses son sont sur un une vous y
    al como con de del el ella en es esta este la las lo los más no para pero por que se sin su sus
    un una y"""
STOPWORDS = frozenset(_STOPWORDS.split())
_NEGATING = """
not no never neither nor none nobody nothing nowhere without cannot can't won't don't doesn't
    didn't isn't aren't wasn't weren't hasn't haven't hadn't shouldn't wouldn't couldn't mustn't
    nicht kein keine keinen keiner keinem nie niemals ohne weder pas jamais aucun aucune sans nunca
    jamás ningún ninguna sin"""
_NEGATIONS = frozenset(_NEGATING.split())
_OPPOSITES = (
    (
        ("increas", "rose", "rise", "grew", "grow", "higher"),
        ("decreas", "fell", "declin", "lower", "drop"),
    ),
    (("include",), ("exclude", "excluding")),
    (("before",), ("after",)),
    (("permit", "allow"), ("prohibit", "forbid", "forbidden")),
    (("maximum", "most"), ("minimum", "least")),
)
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ed", "ies", "es", "s", "ly")


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """A light stem: enough that "revenues" meets "revenue", not more."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


def content(text: str) -> list[str]:
    """Stems of the words that carry meaning; pairs of characters where no spaces are written."""
    found = []
    for match in _WORD.finditer(text):
        word = match.group()
        if _CJK.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word.lower() not in STOPWORDS and len(word) > 1:
            found.append(stem(word))
    return found


def numbers(text: str) -> set[str]:
    """Numbers in one spelling: no thousands separators, no trailing zeros behind the point."""
    return {_number(match.group()) for match in _NUMBER.finditer(text)}


def _number(written: str) -> str:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", written):
        written = written.replace(",", "")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", written) and (
        written.count(".") > 1 or "," in written
    ):
        written = written.replace(".", "").replace(",", ".")
    elif written.count(",") == 1 and "." not in written:
        written = written.replace(",", ".")
    if "." in written and written.count(".") == 1:
        written = written.rstrip("0").rstrip(".")
    return written.lstrip("0") or "0"


def names(text: str) -> list[str]:
    """Capitalised words that are not merely the first of a sentence or ordinary words."""
    found = []
    for match in _NAME.finditer(text):
        before = text[: match.start()].rstrip(" \"'“‘(")
        if not before or before[-1] in ".!?:\n•-–":
            continue
        if match.group().lower() not in STOPWORDS:
            found.append(stem(match.group()))
    return found


def negated(text: str) -> bool:
    """Whether the text denies something."""
    return any(
        match.group().lower().replace("’", "'") in _NEGATIONS for match in _WORD.finditer(text)
    )


def opposed(left: str, right: str) -> bool:
    """Whether one text says "increased" where the other says "decreased", and the like."""
    a, b = left.lower(), right.lower()
    return any(
        (_has(a, one) and _has(b, other) and not _has(a, other) and not _has(b, one))
        or (_has(a, other) and _has(b, one) and not _has(a, one) and not _has(b, other))
        for one, other in _OPPOSITES
    )


def _has(text: str, beginnings: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{beginning}", text) for beginning in beginnings)
