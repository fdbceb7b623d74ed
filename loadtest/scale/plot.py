"""The recall and latency curve as SVG: two panels, one line a table, no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtest.scale.measure import Beam

WIDTH, HEIGHT, LEFT, TOP = 330, 250, 60, 40
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad")


def svg(curves: Mapping[int, Sequence[Beam]]) -> str:
    """A picture of recall@10 and of the median latency against `ef_search`, by rows."""
    beams = [beam for curve in curves.values() for beam in curve]
    worst = min(0.9, *(beam.recall_at_10 for beam in beams))
    slowest = max(beam.p50_ms for beam in beams)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH + 180}" '
            f'height="{HEIGHT + 90}" font-family="sans-serif" font-size="12">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
        *_panel(0, "recall@10", worst, 1.0),
        *_panel(1, "median, ms", 0.0, slowest),
    ]
    for place, (rows, curve) in enumerate(sorted(curves.items())):
        colour = COLOURS[place % len(COLOURS)]
        recall = [(beam.ef_search, beam.recall_at_10) for beam in curve]
        took = [(beam.ef_search, beam.p50_ms) for beam in curve]
        parts += [_line(0, recall, worst, 1.0, colour), _line(1, took, 0.0, slowest, colour)]
        y = TOP + 20 * place
        parts.append(f'<text x="{2 * WIDTH + 90}" y="{y + 4}" fill="{colour}">{rows:,} rows</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(panel: int, ef: float, most: float = 400.0) -> float:
    return LEFT + panel * (WIDTH + 20) + (WIDTH - LEFT) * ef / most


def _y(value: float, low: float, high: float) -> float:
    return TOP + HEIGHT * (1 - (value - low) / (high - low))


def _panel(panel: int, title: str, low: float, high: float) -> list[str]:
    left, right, bottom = _x(panel, 0), _x(panel, 400), TOP + HEIGHT
    parts = [
        f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{title}</text>',
        f'<path d="M{left} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>',
        f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">ef_search</text>',
    ]
    parts += [
        f'<text x="{_x(panel, ef)}" y="{bottom + 18}" text-anchor="middle">{ef}</text>'
        for ef in (0, 100, 200, 300, 400)
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = _y(value, low, high)
        parts += [
            f'<path d="M{left} {y}H{right}" stroke="#ddd"/>',
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>',
        ]
    return parts


def _line(
    panel: int, points: Sequence[tuple[float, float]], low: float, high: float, colour: str
) -> str:
    places = " ".join(f"{_x(panel, ef):.1f},{_y(value, low, high):.1f}" for ef, value in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
