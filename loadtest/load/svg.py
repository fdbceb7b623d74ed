"""Plots as SVG, written by hand: a report is one file that needs nothing else. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d",
           "#475569", "#a16207", "#4f46e5")  # fmt: skip
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or points, of a plot."""

    name: str
    points: Sequence[Point]
    colour: str
    style: str = "line"
    """`line`, `dashed`, `dots` or `area`."""


@dataclass(frozen=True, slots=True)
class Band:
    """A named stretch of the horizontal axis."""

    name: str
    begins: float
    ends: float


def ticks(most: float, count: int = 5) -> list[float]:
    """Round values from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / count
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def number(value: float) -> str:
    """A value as a person writes it."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def plot(
    series: Sequence[Series],
    *,
    across: str,
    up: str,
    bands: Sequence[Band] = (),
    marks: Sequence[tuple[float, str]] = (),
    label: str = "",
) -> str:
    """Lines over one horizontal axis.

    Args:
        series: What is drawn, in this order.
        across: Name of the horizontal axis.
        up: Name of the vertical axis.
        bands: Stretches to name above the lines.
        marks: Vertical lines with a word each.
        label: What a reader who cannot see it is told.
    """
    drawn = [point for each in series for point in each.points]
    if not drawn:
        return '<p class="quiet">Nothing was measured for this plot.</p>'
    xs = ticks(max(x for x, _ in drawn), 8)
    ys = ticks(max(y for _, y in drawn))
    most_x = max(x for x, _ in drawn) or 1.0

    def x(value: float) -> float:
        return LEFT + value / most_x * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / ys[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label or up)}">']
    for place, band in enumerate(bands):
        left, right = x(band.begins), x(min(band.ends, most_x))
        shade = "band odd" if place % 2 else "band"
        parts.append(
            f'<rect class="{shade}" x="{left:.1f}" y="{TOP}" width="{max(0, right - left):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(band.name)}</title></rect>'
        )
        if right - left > 7 * len(band.name) * 0.8:
            middle = (left + right) / 2
            parts.append(
                f'<text class="small" x="{middle:.1f}" y="{TOP + 11}" text-anchor="middle">'
                f"{escape(band.name)}</text>"
            )
    parts += [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" '
        f'y2="{y(value):.1f}"/><text x="{LEFT - 6}" y="{y(value) + 4:.1f}" '
        f'text-anchor="end">{number(value)}</text>'
        for value in ys
    ]
    parts += [
        f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
        f"{number(value)}</text>"
        for value in xs
        if value <= most_x * 1.001
    ]
    for value, word in marks:
        parts.append(
            f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/><text class="small" x="{x(value) + 4:.1f}" '
            f'y="{HEIGHT - BOTTOM - 6}">{escape(word)}</text>'
        )
    for each in series:
        parts.append(_drawn(each, [(x(px), y(py)) for px, py in each.points], y(0)))
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle" '
        f'class="axis">{escape(across)}</text><text class="axis" transform="translate(13 '
        f'{(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(up)}'
        "</text></svg>"
    )
    return f"<figure>{''.join(parts)}{legend(series)}</figure>"


def _drawn(series: Series, points: Sequence[Point], ground: float) -> str:
    title = f"<title>{escape(series.name)}</title>"
    if series.style == "dots":
        return "".join(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{series.colour}">{title}</circle>'
            for px, py in points
        )
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    if series.style == "area":
        first, last = points[0][0], points[-1][0]
        return (
            f'<polygon points="{first:.1f},{ground:.1f} {path} {last:.1f},{ground:.1f}" '
            f'fill="{series.colour}" opacity="0.8">{title}</polygon>'
        )
    dashes = ' stroke-dasharray="5 4"' if series.style == "dashed" else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{series.colour}" '
        f'stroke-width="2"{dashes}>{title}</polyline>'
    )


def legend(series: Sequence[Series]) -> str:
    """The names beside their colours."""
    keys = "".join(
        f'<span><i style="background:{each.colour}"></i>{escape(each.name)}</span>'
        for each in series
        if each.name
    )
    return f"<figcaption>{keys}</figcaption>"


def stacked(names: Sequence[str], rows: Sequence[tuple[float, Sequence[float]]]) -> list[Series]:
    """Areas on top of each other, the last one drawn first so that the first one lies in front."""
    areas = []
    for place, name in enumerate(names):
        points = [(at, sum(values[: place + 1])) for at, values in rows]
        areas.append(Series(name, points, COLOURS[place % len(COLOURS)], "area"))
    return areas[::-1]


def bars(rows: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Horizontal bars: name, value, remark."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><div style="width:'
        f'{100 * value / most:.1f}%"></div></td><td>{number(value)} {unit}</td>'
        f'<td class="quiet">{escape(remark)}</td></tr>'
        for name, value, remark in rows
    )
    return f'<table class="bars">{lines}</table>'
