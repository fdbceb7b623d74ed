"""Personal data and secrets: what is looked for, one detector each.

Every detector obeys three rules, so that the same decisions come out whether a text is seen whole
or in pieces (see `scanner.py` and `stream.py`):

* a match has at most `MAX_MATCH` characters; what may be longer (a token, a key block) is
  recognised by its beginning and then eaten by `tail` or `until`;
* a match never spans a *hard break* (`hard_breaks`): anything but a single space between two
  groups of digits or capitals, and but printable ASCII and Latin letters;
* a check may look back at most `LOOK_BEHIND` characters, a pattern ahead at most two.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from services.guardrail import checksums
from services.guardrail.findings import Category

MAX_MATCH = 256
LOOK_BEHIND = 32

Check = Callable[[str, int, int], int]
"""Takes the text and the span of a candidate; returns where the match ends, 0 when it is none."""


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of personal data or secret."""

    rule: str
    """Stable name."""
    category: Category
    """Kind of its findings."""
    pattern: re.Pattern[str]
    """What a candidate looks like."""
    score: float = 0.9
    """Confidence of a match; 1 with a checksum or an unmistakable prefix."""
    check: Check | None = None
    """Decides over a candidate; none accepts all."""
    needs: str | re.Pattern[str] = ""
    """A cheap sign that must be in the text for the pattern to be tried at all."""
    tail: re.Pattern[str] | None = None
    """Characters after a match that still belong to it, however many."""
    until: re.Pattern[str] | None = None
    """End marker up to which everything belongs to the match; at most `UNTIL_LIMIT` characters."""


UNTIL_LIMIT = 8192

_DIGIT = re.compile(r"\d")
_TOKEN_TAIL = re.compile(r"[A-Za-z0-9_\-]")
_WORDS_PHONE = re.compile(
    r"\b(?:tel|telephone|phone|fon|telefon|mobile|mobil|cell|handy|fax|call|dial|whatsapp|sms"
    r"|teléfono|téléphone|telefono|numéro|nummer)\W{0,4}"
    r"(?:(?:me|us|him|her|at|on|is|number|no|nr|unter)\W{1,3}){0,3}$",
    re.IGNORECASE,
)
_WORDS_SSN = re.compile(r"\b(?:ssn|social sec(?:urity)?|tax id|itin)[^\d\n]{0,20}$", re.IGNORECASE)
_WORDS_IP = re.compile(r"(?:\b|_)(?:ip(?:v4)?|address)\b[^\d\n]{0,20}$", re.IGNORECASE)
_GROUP_END = re.compile(r"[0-9A-Za-z)](?![0-9A-Za-z])")


def _said_before(words: re.Pattern[str], text: str, start: int) -> bool:
    return words.search(text[max(0, start - LOOK_BEHIND) : start]) is not None


def _longest_prefix(accepts: Callable[[str], bool], text: str, start: int, end: int) -> int:
    """End of the longest run of whole groups from `start` that is accepted.

    A figure often follows an identifier ("4111 1111 1111 1111 123") and fits the pattern too.
    """
    for match in reversed(list(_GROUP_END.finditer(text, start, end))):
        if accepts(text[start : match.end()]):
            return match.end()
    return 0


def _card_end(text: str, start: int, end: int) -> int:
    return _longest_prefix(checksums.card_number, text, start, end)


def _iban_end(text: str, start: int, end: int) -> int:
    return _longest_prefix(checksums.iban, text, start, end)


def _ssn_end(text: str, start: int, end: int) -> int:
    if not checksums.social_security_number(text[start:end]):
        return 0
    # "123 45 6789" is also three figures of a table; only dashes speak for themselves.
    return end if "-" in text[start:end] or _said_before(_WORDS_SSN, text, start) else 0


def _phone_end(text: str, start: int, end: int) -> int:
    return _longest_prefix(lambda number: 8 <= _digits(number) <= 15, text, start, end)


def _named_phone_end(text: str, start: int, end: int) -> int:
    if not _said_before(_WORDS_PHONE, text, start):
        return 0
    return _longest_prefix(lambda number: 7 <= _digits(number) <= 15, text, start, end)


def _named_ip_end(text: str, start: int, end: int) -> int:
    address = all(int(part) < 256 for part in text[start:end].split("."))
    return end if address and _said_before(_WORDS_IP, text, start) else 0


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _secret(rule: str, pattern: str, needs: str, score: float = 1.0) -> Detector:
    return Detector(
        rule, Category.SECRET, re.compile(pattern), score, needs=needs, tail=_TOKEN_TAIL
    )


def _personal(
    rule: str,
    pattern: str,
    check: Check | None,
    score: float,
    needs: str | re.Pattern[str] = _DIGIT,
) -> Detector:
    return Detector(rule, Category.PERSONAL_DATA, re.compile(pattern), score, check, needs)


# Order is priority: of two matches that start at the same place the earlier detector wins.
DETECTORS: tuple[Detector, ...] = (
    Detector(
        "private_key",
        Category.SECRET,
        re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
        1.0,
        needs="-----BEGIN",
        until=re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
    ),
    Detector(
        "json_web_token",
        Category.SECRET,
        re.compile(r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{8,200}\.eyJ"),
        1.0,
        needs=".eyJ",
        tail=re.compile(r"[A-Za-z0-9_\-.=]"),
    ),
    Detector(
        "url_password",
        Category.SECRET,
        re.compile(r"(?<=://)[!-.0-9;-?A-~]{0,64}:[!-.0-?A-~]{1,128}(?=@)"),
        1.0,
        needs="://",
    ),
    _secret(
        "aws_access_key", r"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])", "A"
    ),
    _secret(
        "github_token",
        r"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{30,80}|github_pat_[A-Za-z0-9_]{40,100})",
        "gh",
    ),
    _secret("google_api_key", r"(?<![A-Za-z0-9_\-])AIza[A-Za-z0-9_\-]{35}", "AIza"),
    _secret("anthropic_api_key", r"(?<![A-Za-z0-9_\-])sk-ant-[A-Za-z0-9_\-]{20,200}", "sk-ant-"),
    _secret(
        "openai_api_key",
        r"(?<![A-Za-z0-9_\-])sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_\-]{20,200}",
        "sk-",
    ),
    _secret("citemesh_key", r"(?<![A-Za-z0-9_])cmk_[A-Za-z0-9_\-]{16,200}", "cmk_"),
    _secret("slack_token", r"(?<![A-Za-z0-9_])xox[abeprs]-[A-Za-z0-9\-]{10,200}", "xox"),
    _secret("stripe_key", r"(?<![A-Za-z0-9_])[rs]k_(?:live|test)_[A-Za-z0-9]{16,200}", "k_"),
    _personal(
        "email",
        r"[A-Za-z0-9À-ɏ_.+%'\-]{1,64}@(?:[A-Za-z0-9À-ɏ\-]{1,40}\.){1,4}[A-Za-z]{2,24}"
        r"(?![A-Za-z0-9À-ɏ])",
        None,
        0.99,
        "@",
    ),
    _personal(
        "iban",
        r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
        _iban_end,
        1.0,
    ),
    _personal(
        "credit_card",
        r"(?<![\w.,$€£\-])(?:\d{13,19}|\d{4}([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?"
        r"|\d{4}([ \-])\d{6}\2\d{4,5})(?![\w\-]|[.,]\d)",
        _card_end,
        1.0,
    ),
    _personal("us_ssn", r"(?<![\w\-.,])\d{3}([ \-])\d{2}\1\d{4}(?![\w\-]|[.,]\d)", _ssn_end, 0.9),
    _personal(
        "phone",
        r"(?<![\w+])\+[1-9]\d{0,14}(?:[ .\-/]?\(\d{1,5}\)\d{0,12}|[ .\-/]\d{1,12}){0,7}"
        r"(?!\w|[.,]\d)",
        _phone_end,
        0.9,
        "+",
    ),
    # North American numbers as they are printed; bare groups need a word such as "phone" before.
    _personal(
        "phone",
        r"(?<![\w.,$€£\-(])(?:1[.\-])?"
        r"(?:\([2-9]\d{2}\)[ \-]?[2-9]\d{2}-\d{4}|[2-9]\d{2}([.\-])[2-9]\d{2}\1\d{4})"
        r"(?:x\d{1,6})?(?![\w\-]|[.,]\d)",
        None,
        0.85,
    ),
    _personal(
        "phone",
        r"(?<![\w.,$€£])\(?\d{1,12}\)?(?:[ .\-/]\(?\d{1,8}\)?){0,6}(?![\w]|[.,]\d)",
        _named_phone_end,
        0.75,
    ),
    _personal(
        "ip_address",
        r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)",
        _named_ip_end,
        0.8,
    ),
)

# A space a match may cross: one, between groups of digits or capitals ("4111 1111", "GB29 NWBK").
_BEFORE_SOFT_SPACE = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ)-/")
_AFTER_SOFT_SPACE = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ(-/")


def last_hard_break(text: str, start: int) -> int:
    """Position after the last character at or behind `start` that no match can span, else `start`.

    A space at the very end is undecided when it could be soft: what follows decides.
    """
    for index in range(len(text) - 1, start - 1, -1):
        character = text[index]
        if "!" <= character <= "~" or "À" <= character <= "ɏ":
            continue
        if (
            character == " "
            and index > 0
            and text[index - 1] in _BEFORE_SOFT_SPACE
            and (index + 1 == len(text) or text[index + 1] in _AFTER_SOFT_SPACE)
        ):
            continue
        return index + 1
    return start
