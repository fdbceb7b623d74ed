"""What a rule found in a text, and what to do about it.

A finding names the rule and the span, never the found text: findings travel to logs and callers.
"""

from dataclasses import dataclass
from enum import Enum


class Category(Enum):
    """Kind of a finding, as in the contract."""

    PERSONAL_DATA = "personal_data"
    SECRET = "secret"  # noqa: S105 - the name of a category
    PROMPT_INJECTION = "prompt_injection"
    POLICY = "policy"


class Verdict(Enum):
    """What to do with a text; a later member is stricter."""

    ALLOW = "allow"
    REDACT = "redact"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Finding:
    """One match of one rule."""

    category: Category
    """Kind of the finding."""
    rule: str
    """Stable name of the rule, such as `email`."""
    score: float
    """Confidence, 0 to 1; rules with a checksum report 1."""
    start: int
    """First character, in Unicode code points of the judged text."""
    end: int
    """Character after the last one."""

    def moved(self, offset: int) -> "Finding":
        """The same finding in a text that has `offset` more characters before it."""
        return Finding(self.category, self.rule, self.score, self.start + offset, self.end + offset)

    def within(self, start: int, end: int) -> "Finding":
        """The part of the finding that lies in a piece of the text, counted from the piece."""
        first, last = max(self.start, start), min(self.end, end)
        return Finding(self.category, self.rule, self.score, first - start, last - start)


def replacement(rule: str) -> str:
    """What stands in the place of a redacted match.

    It holds no digit, so that it can be taken neither for a citation marker nor for a figure.
    """
    return f"[redacted: {rule.replace('_', ' ')}]"
