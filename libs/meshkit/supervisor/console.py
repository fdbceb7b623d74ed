"""Log lines of the children: to a bounded file each, and to the terminal with a prefix."""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from pathlib import Path
from typing import TextIO

FILE_BYTES = 8 * 1024 * 1024
"""A log file is turned over at this size; one older file is kept."""
LINE_BYTES = 16 * 1024
TAIL_LINES = 20
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
LEVELS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
SHOWN_ELSEWHERE = {"event", "level", "timestamp", "logger", "service", "exception"}


class LogFile:
    """Appends lines to `path`, which never grows past about `FILE_BYTES`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        """Appends one line, at once visible to readers.

        A full disk costs lines and not the child: if nobody read its output any
        more, its next line would end it.
        """
        self.tail.append(line)
        try:
            self._file.write(line + "\n")
            self._file.flush()
            if self._file.tell() > FILE_BYTES:
                self.path.replace(self.path.with_suffix(".log.1"))
                fresh = self.path.open("a", encoding="utf-8")
                self._file.close()
                self._file = fresh
        except OSError:
            return

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Console:
    """Prints what the children say, each line with the child's name before it.

    Args:
        names: all names, for the width of the prefix and a colour each.
        quiet: print the supervisor's own lines only (the files have the rest).
    """

    def __init__(self, names: list[str], *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._quiet = quiet
        self._colour = self._out.isatty()
        self._width = max(len(name) for name in (*names, "citemesh"))
        self._codes = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}

    def child(self, name: str, line: str) -> None:
        """One line a child wrote."""
        if not self._quiet:
            self._print(name, readable(line, colour=self._colour))

    def say(self, line: str) -> None:
        """One line of the supervisor itself."""
        self._print("citemesh", line)

    def _print(self, name: str, line: str) -> None:
        prefix = f"{name:<{self._width}} |"
        if self._colour:
            prefix = f"\x1b[{self._codes.get(name, 1)}m{prefix}\x1b[0m"
        try:
            print(prefix, line, file=self._out, flush=True)
        except BrokenPipeError:
            # Nobody reads us any more (`citemesh up | head`); the files still get everything.
            self._quiet = True


def readable(line: str, *, colour: bool = False) -> str:
    """A JSON log line as a person reads it; any other line unchanged, without control codes."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and "event" in entry:
            return _one_line(entry, colour=colour)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", line)


def _one_line(entry: dict[str, object], *, colour: bool) -> str:
    time = str(entry.get("timestamp", ""))[11:19]
    level = str(entry.get("level", "info"))
    rest = " ".join(f"{k}={v}" for k, v in entry.items() if k not in SHOWN_ELSEWHERE)
    parts = [time, f"{level:<7}", str(entry["event"]), rest]
    text = " ".join(part for part in parts if part)
    if "exception" in entry:
        text += "\n" + str(entry["exception"])
    if colour and level in LEVELS:
        return f"{LEVELS[level]}{text}\x1b[0m"
    return text
