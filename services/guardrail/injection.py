"""Judges whether a text tries to change a model's instructions. Pure: rules in, findings out."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.guardrail.findings import Category, Finding
from services.guardrail.injection_rules import ASKS_ABOUT, RULES, Rule
from services.guardrail.normalize import HIDDEN, Reading, readings


@dataclass(frozen=True, slots=True)
class _Hit:
    rule: Rule
    start: int
    end: int


# Cuts a score when the phrase is quoted inside a question about it.
_QUOTED_DISCOUNT = 0.5
# Invisible characters alone: a joiner in an emoji is normal, many are not.
_HIDDEN_LIMIT = 8


def scan_question(text: str) -> list[Finding]:
    """Findings in a question, strongest first."""
    return _scan(text, [rule for rule in RULES if rule.in_questions], quoted_is_mention=True)


def scan_document(text: str) -> list[Finding]:
    """Findings in a piece of a document, strongest first."""
    return _scan(text, [rule for rule in RULES if rule.in_documents], quoted_is_mention=False)


def _scan(text: str, rules: list[Rule], *, quoted_is_mention: bool) -> list[Finding]:
    best: dict[str, Finding] = {}
    for reading in readings(text):
        for hit in _hits(reading, rules):
            score = hit.rule.score
            if quoted_is_mention and _is_mention(reading.text, hit):
                score *= _QUOTED_DISCOUNT
            # Folding moves characters: only an unfolded text has offsets to speak of.
            exact = reading.how == "plain" and len(reading.text) == len(text)
            start, end = (hit.start, hit.end) if exact else (0, len(text))
            known = best.get(hit.rule.name)
            if known is None or known.score < score:
                best[hit.rule.name] = Finding(
                    Category.PROMPT_INJECTION, hit.rule.name, score, start, end
                )
    hidden = sum(character != "\ufeff" for character in HIDDEN.findall(text))
    if hidden >= _HIDDEN_LIMIT:
        best["hidden_characters"] = Finding(
            Category.PROMPT_INJECTION, "hidden_characters", 0.7, 0, len(text)
        )
    return sorted(best.values(), key=lambda finding: -finding.score)


def _hits(reading: Reading, rules: list[Rule]) -> Iterator[_Hit]:
    for rule in rules:
        match = rule.pattern.search(reading.text)
        if match is not None:
            yield _Hit(rule, match.start(), match.end())


def _is_mention(text: str, hit: _Hit) -> bool:
    """Whether the phrase stands in quotes inside a text that asks about something."""
    if ASKS_ABOUT.match(text.strip()) is None:
        return False
    before, after = text[: hit.start + 1], text[hit.end :]
    return any(before.count(mark) % 2 == 1 and mark in after for mark in ('"', "'"))
