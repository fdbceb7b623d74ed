"""The stages of an answer drawn over time: which one began when, and how long it took. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

WIDTH = 48
"""Characters of the whole answer's bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"
MOMENT = "◆"


def lines(timings_ms: Mapping[str, float], started_ms: Mapping[str, float]) -> Iterator[str]:
    """A line a stage, in the order in which they began.

    Args:
        timings_ms: Milliseconds of each stage; of a moment, when it was.
        started_ms: When each stage began; what is not in here is a moment.
    """
    if not timings_ms:
        return
    ends = [started_ms.get(name, 0.0) + taken for name, taken in timings_ms.items()]
    scale = WIDTH / max(*ends, 0.001)
    name_width = max(len(_label(name)) for name in timings_ms)
    yield f"{'stage':<{name_width}}  {'start':>8}  {'ms':>8}"

    def when(name: str) -> tuple[float, int]:
        # A stage before what happens inside it, moments at their time, the end last.
        return (started_ms.get(name, timings_ms[name]), name.count("."))

    for name in sorted(timings_ms, key=when):
        taken, begun = timings_ms[name], started_ms.get(name)
        if begun is None:
            column = min(WIDTH - 1, int(taken * scale))
            shown, at = f"{' ' * column}{MOMENT}", f"{taken:8.1f}  {'':>8}"
        else:
            shown, at = _bar(begun * scale, taken * scale), f"{begun:8.1f}  {taken:8.1f}"
        yield f"{_label(name):<{name_width}}  {at}  {shown}".rstrip()


def _label(name: str) -> str:
    """What happens inside another stage stands further in."""
    return "  " * name.count(".") + name.rpartition(".")[2]


def _bar(begin: float, length: float) -> str:
    """A bar of so many characters, in eighths; never nothing."""
    column = min(WIDTH - 1, int(begin))
    whole, part = divmod(round(length * 8), 8)
    bar = "█" * whole + (EIGHTHS[part] if part else "")
    return " " * column + (bar or EIGHTHS[1])
