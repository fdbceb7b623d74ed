"""What happens to a question before anything is spent on it. Pure: text in, judgement out."""

from collections.abc import Collection
from dataclasses import dataclass

from services.guardrail import injection
from services.guardrail.findings import Category, Finding, Verdict
from services.guardrail.scanner import redact, scan

# Characters that no keyboard types into a question; tab and line breaks are fine.
_CONTROL_ALLOWED = frozenset("\t\n\r")

_REASONS = {
    "empty": "The question has no words; type a question.",
    "too_long": "The question is longer than {limit} characters; shorten it.",
    "control_characters": (
        "The question contains control characters; paste it as plain text and try again."
    ),
    "repetition": "The question repeats the same characters very often; ask it in a sentence.",
}
_INJECTION_REASON = (
    "The question reads as an attempt to change how answers are made ({rule}); "
    "ask only for what you want to know from the documents."
)


@dataclass(frozen=True, slots=True)
class InputPolicy:
    """The knobs of the check."""

    max_characters: int = 4096
    """Longest question that passes."""
    block_score: float = 0.6
    """An injection finding with at least this score blocks."""
    keep: frozenset[str] = frozenset({"email", "phone", "ip_address"})
    """Personal data that may be asked about ("who wrote from x@y.org?"), reported but kept."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to do with a question."""

    verdict: Verdict
    text: str
    """The question to go on with."""
    findings: tuple[Finding, ...]
    reason: str = ""
    """One sentence a person can act on, when blocked."""


def judge(text: str, policy: InputPolicy = InputPolicy()) -> Judgement:
    """Blocks what is no question or an attack, redacts secrets, lets the rest pass."""
    broken = _form(text, policy.max_characters)
    if broken is not None:
        finding = Finding(Category.POLICY, broken, 1.0, 0, len(text))
        reason = _REASONS[broken].format(limit=f"{policy.max_characters:,}")
        return Judgement(Verdict.BLOCK, text, (finding,), reason)
    attacks = injection.scan_question(text)
    data = list(scan(text))
    findings = (*attacks, *data)
    worst = max(attacks, key=lambda finding: finding.score, default=None)
    if worst is not None and worst.score >= policy.block_score:
        reason = _INJECTION_REASON.format(rule=worst.rule.replace("_", " "))
        return Judgement(Verdict.BLOCK, text, findings, reason)
    redacted = [finding for finding in data if _is_redacted(finding, policy.keep)]
    if redacted:
        return Judgement(Verdict.REDACT, redact(text, redacted), findings)
    return Judgement(Verdict.ALLOW, text, findings)


def _is_redacted(finding: Finding, keep: Collection[str]) -> bool:
    return finding.category is Category.SECRET or finding.rule not in keep


def _form(text: str, limit: int) -> str | None:
    """Name of the rule of form that the text breaks."""
    if len(text) > limit:
        return "too_long"
    if any(
        (ord(character) < 32 and character not in _CONTROL_ALLOWED) or 127 <= ord(character) < 160
        for character in text
    ):
        return "control_characters"
    if not any(character.isalnum() for character in text):
        return "empty"
    compact = "".join(text.split())
    if len(compact) >= 200 and len(set(compact)) <= 4:
        return "repetition"
    return None
