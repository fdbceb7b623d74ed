"""The streaming filter: personal data and secrets are replaced in an answer while it is written.

A pure state machine. Text is held back while something in it could still grow into a match, and
never longer than that: up to the last hard break everything is decided (`detectors.py`), and
without one a match has at most `MAX_MATCH` characters, so at most twice that is held. For every way
of cutting a text into deltas the output is the redaction of the whole text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.guardrail.detectors import (
    DETECTORS,
    LOOK_BEHIND,
    MAX_MATCH,
    Detector,
    last_hard_break,
)
from services.guardrail.findings import Finding, replacement
from services.guardrail.scanner import Walk, tail_end


class Release(Enum):
    """When text may leave the filter."""

    STREAM = "stream"
    SENTENCE = "sentence"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Released:
    """What one step of the filter lets out."""

    text: str
    """Filtered text that may be shown; may be empty."""
    findings: tuple[Finding, ...]
    """What was replaced; offsets count characters of the unfiltered answer."""


@dataclass(slots=True)
class _Open:
    """A match whose end was not seen yet; its text is already replaced."""

    detector: Detector
    start: int
    """First character, counted in the whole unfiltered answer."""


# A sentence ends at its mark and the spaces or closing quotes behind it, or at a line's end.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]|\n+")
_SENTENCE_LIMIT = 2000
_MARKER = 96  # characters; more than any end marker has


class OutputFilter:
    """Filters one answer. `push` every delta, then `finish` once."""

    def __init__(
        self, release: Release = Release.STREAM, detectors: Sequence[Detector] = DETECTORS
    ) -> None:
        self._release = release
        self._detectors = detectors
        self._buffer = ""
        self._offset = 0  # of the buffer's first character in the unfiltered answer
        self._done = 0  # characters of the buffer that were decided; kept only to look back
        self._open: _Open | None = None
        self._waiting: list[str] = []  # decided text that the release policy holds

    def push(self, delta: str) -> Released:
        """Takes the next piece of the answer and lets out what is decided."""
        self._buffer += delta
        output, findings = self._decide(final=False)
        return Released(self._gate(output, final=False), findings)

    def finish(self) -> Released:
        """Lets out everything that is still held."""
        output, findings = self._decide(final=True)
        return Released(self._gate(output, final=True), findings)

    @property
    def held(self) -> int:
        """Characters taken in and not decided yet."""
        return len(self._buffer) - self._done

    def _decide(self, *, final: bool) -> tuple[str, tuple[Finding, ...]]:
        pieces: list[str] = []
        findings: list[Finding] = []
        if self._open is not None and not self._close(final, findings):
            return "", tuple(findings)
        walk = Walk(self._buffer, self._detectors)
        boundary = len(self._buffer) if final else self._boundary()
        while (match := walk.next(self._done)) is not None and match.start < boundary:
            pieces += (self._buffer[self._done : match.start], replacement(match.detector.rule))
            self._open = _Open(match.detector, self._offset + match.start)
            self._done = match.end
            if not self._close(final, findings):
                return "".join(pieces), tuple(findings)
        if boundary > self._done:
            pieces.append(self._buffer[self._done : boundary])
            self._done = boundary
        self._trim(LOOK_BEHIND)
        return "".join(pieces), tuple(findings)

    def _boundary(self) -> int:
        """Up to here no match can begin that is not decided by what was seen."""
        decided = last_hard_break(self._buffer, self._done)
        return max(decided, len(self._buffer) - MAX_MATCH - 1, self._done)

    def _close(self, final: bool, findings: list[Finding]) -> bool:
        """Eats the rest of the open match; False while its end is not in sight."""
        opened = self._open
        assert opened is not None
        detector, start = opened.detector, opened.start - self._offset
        end, known = tail_end(detector, self._buffer, start, self._done)
        if not known and not final:
            # What was eaten is forgotten, but for what an end marker could have begun in.
            self._done = max(self._done, end - _MARKER) if detector.until else end
            self._trim(LOOK_BEHIND)
            return False
        self._done = end
        self._open = None
        findings.append(
            Finding(
                detector.category, detector.rule, detector.score, opened.start, self._offset + end
            )
        )
        return True

    def _trim(self, keep: int) -> None:
        surplus = self._done - keep
        if surplus > 0:
            self._buffer = self._buffer[surplus:]
            self._offset += surplus
            self._done -= surplus

    def _gate(self, decided: str, *, final: bool) -> str:
        if self._release is Release.STREAM:
            return decided
        self._waiting.append(decided)
        if final:
            return self._flush("".join(self._waiting), "")
        if self._release is Release.WHOLE:
            return ""
        waiting = "".join(self._waiting)
        end = 0
        for match in _SENTENCE_END.finditer(waiting):
            end = match.end()
        if end == 0 and len(waiting) > _SENTENCE_LIMIT:
            end = len(waiting)
        return self._flush(waiting[:end], waiting[end:])

    def _flush(self, out: str, rest: str) -> str:
        self._waiting = [rest] if rest else []
        return out
