"""Finds the next piece of personal data or secret at or after a place in a text.

The scan is a walk from left to right without memory: from a position, the match that starts first
wins (of several the detector listed first, then the longest), and the walk goes on at its end.
Without memory means that a text cut at any place outside a match gives the same findings, which is
what lets `stream.py` filter an answer while it is written.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.guardrail.detectors import DETECTORS, UNTIL_LIMIT, Detector
from services.guardrail.findings import Finding, replacement


@dataclass(frozen=True, slots=True)
class Match:
    """A match before its tail is eaten."""

    detector: Detector
    start: int
    end: int


@dataclass(slots=True)
class Walk:
    """A walk over one text; remembers per detector the match it found ahead."""

    text: str
    detectors: Sequence[Detector] = DETECTORS
    _ahead: dict[int, tuple[int, int] | None] = field(default_factory=dict)

    def next(self, position: int) -> Match | None:
        """The match that starts first at or after `position`."""
        best: tuple[int, int, int] | None = None
        for index, detector in enumerate(self.detectors):
            span = self._search(index, detector, position)
            if span is not None and (best is None or span[0] < best[0]):
                best = (span[0], span[1], index)
        return None if best is None else Match(self.detectors[best[2]], best[0], best[1])

    def _search(self, index: int, detector: Detector, position: int) -> tuple[int, int] | None:
        if index in self._ahead:
            known = self._ahead[index]
            if known is None or known[0] >= position:
                return known
        elif not _sign_present(detector.needs, self.text, position):
            self._ahead[index] = None
            return None
        found = _first_accepted(detector, self.text, position)
        self._ahead[index] = found
        return found


def _sign_present(sign: str | re.Pattern[str], text: str, position: int) -> bool:
    if isinstance(sign, str):
        # A sign may begin just before the position (the look-behind of a pattern).
        return text.find(sign, max(0, position - 8)) >= 0
    return sign.search(text, position) is not None


def _first_accepted(detector: Detector, text: str, position: int) -> tuple[int, int] | None:
    while (found := detector.pattern.search(text, position)) is not None:
        start, end = found.span()
        if detector.check is not None:
            end = detector.check(text, start, end)
        if end > start:
            return start, end
        position = start + 1
    return None


def tail_end(detector: Detector, text: str, start: int, end: int) -> tuple[int, bool]:
    """Where a match with its tail ends, and whether the end is known from `text` alone.

    `start` is where the match begins; `until` gives up after `UNTIL_LIMIT` characters from there.
    """
    if detector.tail is not None:
        while end < len(text):
            if detector.tail.match(text, end) is None:
                return end, True
            end += 1
        return end, False
    if detector.until is not None:
        closing = detector.until.search(text, end, start + UNTIL_LIMIT)
        if closing is not None:
            return closing.end(), True
        if len(text) >= start + UNTIL_LIMIT:
            return start + UNTIL_LIMIT, True
        return len(text), False
    return end, True


def scan(text: str, detectors: Sequence[Detector] = DETECTORS) -> Iterator[Finding]:
    """Findings in a whole text, in order, never overlapping."""
    walk = Walk(text, detectors)
    position = 0
    while (match := walk.next(position)) is not None:
        detector = match.detector
        position, _ = tail_end(detector, text, match.start, match.end)
        yield Finding(detector.category, detector.rule, detector.score, match.start, position)


def redact_each(texts: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Texts that are shown beside each other, redacted, and what was found in all of them.

    They are taken for the lines of one text: a key block that begins in one and has no end there
    goes on in the next. Everything else ends with its line.
    """
    joined = "\n".join(texts)
    findings = list(scan(joined))
    shown: list[str] = []
    start = 0
    for text in texts:
        end = start + len(text)
        inside = [f.within(start, end) for f in findings if f.start < end and start < f.end]
        shown.append(redact(text, inside))
        start = end + 1
    return shown, findings


def redact(text: str, findings: Sequence[Finding]) -> str:
    """`text` with every finding's span replaced; findings are in order and do not overlap."""
    pieces: list[str] = []
    position = 0
    for finding in findings:
        pieces += (text[position : finding.start], replacement(finding.rule))
        position = finding.end
    pieces.append(text[position:])
    return "".join(pieces)
