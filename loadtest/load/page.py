"""The report as one HTML page, with everything inside. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.load import svg
from loadtest.load.observed import NOT_THE_MESH
from loadtest.load.report import total_cores
from loadtest.load.scaling import Law
from loadtest.load.svg import COLOURS, Band, Series

STYLE = Path(__file__).with_name("style.css")


def render(report: Mapping[str, Any]) -> str:
    """The whole page."""
    form = "short form" if report["short"] else "full form"
    body = "".join(
        (
            f"<h1>{escape(report['scenario'])}</h1>",
            f'<p class="quiet">{escape(report["about"])} Load report of citemesh, {form}.</p>',
            _cards(report),
            _section("What was checked", _checks(report)),
            _section("Over time", _timeline(report)),
            _section("Step by step", _steps(report)),
            _section("How far it scales", _ladder(report)),
            _section("Where the time of an answer goes", _hops(report)),
            _section("What it costs", _processor(report) + _demands(report)),
            _section("Little's law", _little(report)),
            _section("What could be wrong", _list(report["threats"])),
            _section("Made on", _environment(report)),
        )
    )
    return document(f"citemesh load: {report['scenario']}", body)


def document(title: str, body: str) -> str:
    """A page around its content, with everything inside."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text()}</style></head><body>{body}</body></html>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; `None` is a dash."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join(
        f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def cell(value: object) -> str:
    """What stands in a cell."""
    if value is None or value == "":
        return "–"
    return svg.number(float(value)) if isinstance(value, int | float) else escape(str(value))


def percent(value: float | None) -> str:
    """A share for people."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _cards(report: Mapping[str, Any]) -> str:
    low, high = report["law"]["intervals"].get("knee_per_s", (0.0, 0.0))
    quality = report["quality"]
    shown = [
        (f"{report['knee_per_s']:.1f}/s", f"knee [{low:.1f}, {high:.1f}]"),
        (f"{report['knee_users']:.0f}", "users at the knee"),
        (f"{cell(report['first_token_p95_ms'])} ms", f"first text p95, {report['at_peak']}"),
        (f"{cell(report['p95_ms'])} ms", f"answer p95, {report['at_peak']}"),
        (percent(report["error_share"]), f"errors, {report['at_peak']}"),
        (percent(quality["at_peak"]), f"right documents (at rest {percent(quality['at_rest'])})"),
    ]
    if report["goodput_share_at_3x"] is not None:
        shown.append(
            (percent(report["goodput_share_at_3x"]), "goodput at three knees, of the best")
        )
    cards = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in shown
    )
    return f'<div class="cards">{cards}</div>'


def _checks(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(check["name"])}</th><td>{cell(check["value"])}</td>'
        f"<td>{escape(check['sign'])} {cell(check['limit'])}</td>"
        f'<td class="{"good" if check["holds"] else "bad"}">'
        f"{'holds' if check['holds'] else 'does not hold'}</td></tr>"
        for check in report["checks"]
    )
    kinds = ", ".join(
        f"{name} {100 * value:.0f} %" for name, value in report["mix"]["kinds"].items()
    )
    return (
        f"<p>Mix: {escape(kinds)}. Topics are popular by Zipf's law with exponent "
        f"{report['mix']['zipf']}; {100 * report['mix']['fresh']:.0f} % of the questions are "
        "worded as never before. Arrivals are open (Poisson): latency counts from when a request "
        f"was due.</p><table>{rows}</table>"
    )


def _timeline(report: Mapping[str, Any]) -> str:
    points = report["timeline"]
    bands = [Band(each["name"], each["begins"], each["ends"]) for each in report["boundaries"]]
    counts = svg.plot(
        [
            Series("due", [(p["at"], p["due"]) for p in points], COLOURS[8], "dashed"),
            Series("answered", [(p["at"], p["done"]) for p in points], COLOURS[0]),
            Series("failed, of those due", [(p["at"], p["failed"]) for p in points], COLOURS[3]),
        ],
        across="seconds",
        up="requests a second",
        bands=bands,
        label="requests due, answered and failed over time",
    )
    latency = svg.plot(
        [
            Series(
                name,
                [(p["at"], p["first_ms"][name]) for p in points if p["first_ms"][name] is not None],
                colour,
            )
            for name, colour in (("p95", COLOURS[1]), ("p50", COLOURS[0]))
        ],
        across="seconds",
        up="first text, ms",
        bands=bands,
        label="time to the first text over time",
    )
    return counts + latency


def _steps(report: Mapping[str, Any]) -> str:
    columns = (
        *("step", "s", "due/s", "done/s", "good/s", "first p50", "p95", "p99"),
        *("answer p50", "p95", "p99", "errors", "degraded", "cached", "right", "cores"),
    )
    rows = [
        (
            step["name"],
            step["seconds"],
            step["offered_per_s"],
            step["completed_per_s"],
            step["goodput_per_s"],
            *(step["first_ms"][name] for name in ("p50", "p95", "p99")),
            *(step["total_ms"][name] for name in ("p50", "p95", "p99")),
            percent(step["error_share"]),
            percent(step["degraded_share"]),
            percent(step["cached_share"]),
            percent(step["quality"]["right"]),
            f"{total_cores(step):.2f}",
        )
        for step in report["steps"]
    ]
    peak = next(step for step in report["steps"] if step["name"] == report["at_peak"])
    kinds = table(
        (
            "kind",
            "count",
            "errors",
            "first p50",
            "first p95",
            "total p50",
            "total p95",
            "total p99",
        ),
        (
            (
                kind,
                found["count"],
                percent(found["error_share"]),
                found["first_ms"]["p50"],
                found["first_ms"]["p95"],
                *(found["total_ms"][name] for name in ("p50", "p95", "p99")),
            )
            for kind, found in peak["kinds"].items()
        ),
    )
    told = [
        f"{step['name']}: {what} {reasons}"
        for step in report["steps"]
        for what, found in (
            ("errors", step["errors"]),
            ("degraded", step["degraded"]),
            ("errors of the other load", step["other_tracks"]["errors"]),
        )
        if found
        for reasons in [", ".join(f"{name} {count}" for name, count in found.items())]
    ]
    served = [
        f"{step['name']}: answers by {names}"
        for step in report["steps"]
        if len(step["providers"]) > 1
        for names in [", ".join(f"{n} {percent(s)}" for n, s in step["providers"].items())]
    ]
    return (
        "<p>Times in milliseconds. Good is answered within the objectives. Cores are those of the "
        "mesh, without generator and simulator.</p>"
        + table(columns, rows)
        + f"<p>By kind, at “{escape(report['at_peak'])}”:</p>"
        + kinds
        + _list([*told, *served])
        + f"<p>The last document was ready {report['ready_after_s']:.1f} s after the load.</p>"
    )


def _ladder(report: Mapping[str, Any]) -> str:
    found = report["law"]
    law = Law(found["one_user"], found["contention"], found["coherence"])
    most = max(rung["users"] for rung in report["ladder"])
    curve = [(most * step / 60, law.at(max(1.0, most * step / 60))) for step in range(1, 61)]
    measured = [(rung["users"], rung["per_s"]) for rung in report["ladder"]]
    drawing = svg.plot(
        [
            Series("fit", curve, COLOURS[0]),
            Series("without contention", [(0, 0), (report["knee_users"], report["max_per_s"]),
                   (most, report["max_per_s"])], COLOURS[8], "dashed"),
            Series("measured", measured, COLOURS[1], "dots"),
        ],
        across="users, closed",
        up="requests a second",
        marks=[(report["knee_users"], "knee")],
        label="throughput over users with the fitted law",
    )  # fmt: skip
    names = {
        "one_user": "one user, requests/s",
        "contention": "contention",
        "coherence": "coherence",
        "knee_users": "knee, users",
        "knee_per_s": "knee, requests/s",
        "max_per_s": "most, requests/s",
    }
    values = {**found, **{key: report[key] for key in ("knee_users", "knee_per_s", "max_per_s")}}
    fitted = table(
        ("Universal Scalability Law", "value", "95 % interval"),
        (
            (title, values[name], "[{:.3g}, {:.3g}]".format(*found["intervals"][name]))
            for name, title in names.items()
        ),
    )
    rungs = table(
        (
            "users",
            "requests/s",
            "first p50",
            "first p95",
            "answer p50",
            "answer p95",
            "errors",
            "cores",
        ),
        (
            (
                rung["users"],
                rung["per_s"],
                rung["first_ms"]["p50"],
                rung["first_ms"]["p95"],
                rung["total_ms"]["p50"],
                rung["total_ms"]["p95"],
                percent(rung["error_share"]),
                f"{total_cores(rung):.2f}",
            )
            for rung in report["ladder"]
        ),
    )
    return drawing + f"<p>R² of the fit: {found['r2']:.3f}.</p>" + fitted + rungs


def _hops(report: Mapping[str, Any]) -> str:
    parts = []
    for name, title in (("at_rest", report["at_rest"]), ("at_peak", report["at_peak"])):
        rows = [
            (
                f"{hop['service']} · {hop['name'].rpartition('/')[2] or hop['name']}",
                hop["own_ms"],
                f"{hop['per_answer']:.1f} x, p50 {hop['p50_ms']:.1f}, p95 {hop['p95_ms']:.1f} ms",
            )
            for hop in report["hops"].get(name, [])
            if hop["own_ms"] >= 0.5
        ]
        parts.append(f"<h3>{escape(title)}</h3>")
        parts.append(
            svg.bars(rows, "ms") if rows else '<p class="quiet">No answer was traced here.</p>'
        )
    return (
        "<p>Own time of a span, without its children's, on average in one traced answer. Streams "
        "overlap: filter and model run at the same time.</p>" + "".join(parts)
    )


def _processor(report: Mapping[str, Any]) -> str:
    points = report["processor"]
    names = sorted({name for point in points for name in point["cores"]} - {"machine"})
    names.sort(key=lambda name: (name in NOT_THE_MESH, name))
    rows = [(p["at"], [p["cores"].get(name, 0.0) for name in names]) for p in points]
    bands = [Band(each["name"], each["begins"], each["ends"]) for each in report["boundaries"]]
    drawing = svg.plot(
        svg.stacked(names, rows) if rows else [],
        across="seconds",
        up="cores",
        bands=bands,
        label="processor use of every service over time",
    )
    memory = table(
        ("process", "most memory, MB", "growth, MB an hour"),
        (
            (name, found["most_mb"], found["growth_mb_per_h"])
            for name, found in report["memory"].items()
        ),
    )
    return drawing + memory


def _demands(report: Mapping[str, Any]) -> str:
    classes = sorted(report["demands"])
    services = sorted({name for values in report["demands"].values() for name in values})
    rows = [
        (service, *(1e3 * report["demands"][each].get(service, 0.0) for each in classes))
        for service in services
    ]
    totals = [sum(row[column] for row in rows) for column in range(1, len(classes) + 1)]
    return (
        "<p>Processor milliseconds of one request, by class: least squares over every step of the "
        "run, nothing negative. <code>citemesh capacity</code> plans with them.</p>"
        + table(("service", *classes), [*rows, ("all", *totals)])
    )


def _little(report: Mapping[str, Any]) -> str:
    return (
        "<p>Users or requests under way, counted, beside throughput × time. A step "
        "counts when it is three times as long as a request.</p>"
        + table(
            ("step", "counted N", "X, per s", "R, s", "X·R", "X·R / N", "steady"),
            (
                (
                    e["name"],
                    e["counted"],
                    e["per_s"],
                    e["mean_s"],
                    e["product"],
                    e["ratio"],
                    "yes" if e["steady"] else "no",
                )
                for e in report["littles_law"]
            ),
        )
    )


def _environment(report: Mapping[str, Any]) -> str:
    rows = [
        (
            name.replace("_", " "),
            ", ".join(map(str, value)) if isinstance(value, list) else str(value),
        )
        for name, value in report["environment"].items()
    ]
    return table(("", ""), rows)
