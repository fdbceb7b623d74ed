"""`citemesh capacity`: what a load needs, from a report of `make load`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.failure import CommandFailed
from meshkit.cli.options import AsJson

if TYPE_CHECKING:
    from meshkit.capacity import Comparison, Measured, Plan

Report = Annotated[Path, typer.Option("--report", metavar="REPORT", help="JSON of `make load`.")]
Qps = Annotated[float, typer.Option("--qps", min=0.001, help="Requests a second.")]
Slo = Annotated[float, typer.Option("--slo-p95-ms", min=1, help="95 % of new answers within this.")]
MixOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mix",
        metavar="CLASS=SHARE",
        help="answer, cached_answer, search, upload, delete; may be given several times.",
        show_default="the report's",
    ),
]
Chunks = Annotated[int, typer.Option("--chunks", min=1, help="Size of the corpus.")]
Check = Annotated[
    Path | None,
    typer.Option("--check", metavar="OTHER", help="Compare predictions with another report."),
]


def capacity(
    report: Report,
    qps: Qps = 100.0,
    slo_p95_ms: Slo = 2000.0,
    mix: MixOption = None,
    chunks: Chunks = 1_000_000,
    check: Check = None,
    as_json: AsJson = False,
) -> None:
    """Plan replicas, databases, quotas and money for a load; or check the model itself.

    Exit code 1 when no plan keeps the objective, or a prediction is off by more than 20 %.
    """
    from meshkit.capacity import Target, compare, plan

    measured = _read(report)
    if check is not None:
        _show_check(compare(measured, _read(check)), as_json=as_json)
        return
    target = Target(qps, slo_p95_ms / 1e3, _mix(mix) or measured.mix, chunks)
    found = plan(measured, target)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show_plan(measured, found)
    if not found.feasible:
        raise CommandFailed(found.why_not, "OBJECTIVE_OUT_OF_REACH")


def _read(path: Path) -> Measured:
    from meshkit.capacity import Measured, ReportInvalid

    try:
        return Measured.of(json.loads(path.read_text()))
    except OSError as error:
        raise CommandFailed(
            f"{path} cannot be read: {error.strerror}.", "REPORT_INVALID"
        ) from error
    except (ValueError, ReportInvalid) as error:
        raise CommandFailed(
            f"{path} is no report of `make load`. {error}", "REPORT_INVALID"
        ) from error


def _mix(values: list[str] | None) -> dict[str, float]:
    from meshkit.cli.options import parse_labels

    try:
        shares = {name: float(share) for name, share in parse_labels(values).items()}
    except ValueError:
        raise typer.BadParameter("a share is a number", param_hint="--mix") from None
    total = sum(shares.values())
    if shares and (min(shares.values()) < 0 or total <= 0):
        raise typer.BadParameter("shares are above 0", param_hint="--mix")
    return {name: share / total for name, share in shares.items()}


def _show_plan(measured: Measured, plan: Plan) -> None:
    from meshkit.cli.output import table

    target, providers = plan.target, plan.providers
    mix = ", ".join(f"{name} {share:.0%}" for name, share in sorted(target.mix.items()))
    print(
        f"{target.per_second:g} requests a second ({mix}), new answers within "
        f"{target.slo_p95_s * 1e3:.0f} ms (p95), {target.chunks:,} chunks; from "
        f"{measured.scenario} at {measured.commit or 'an unknown commit'}"
    )
    table(
        ("service", "replicas", "busy cores", "busy each", "one lost", "memory each"),
        [
            (
                each.name,
                each.replicas,
                f"{each.cores:.2f}",
                f"{each.busy:.0%}",
                f"{each.busy_with_one_lost:.0%}",
                f"{each.memory_mb:.0f} MB",
            )
            for each in plan.services
        ],
    )
    postgres = (
        f"{plan.postgres_cores} cores ({plan.postgres_busy:.0%} busy), "
        f"{plan.postgres_memory_gb:.0f} GB memory, {plan.postgres_disk_gb:.0f} GB disk, "
        "and a standby of the same size"
    )
    opensearch = (
        f"{plan.opensearch_nodes} nodes of 8 cores and {plan.opensearch_memory_gb:.0f} GB, "
        f"{plan.opensearch_shards} primary shards, one replica"
    )
    quota = (
        f"{providers.answers_per_minute:,.0f} answers, "
        f"{providers.input_tokens_per_minute:,.0f} input and "
        f"{providers.output_tokens_per_minute:,.0f} output tokens, "
        f"{providers.reranks_per_minute:,.0f} reranks a minute"
    )
    times = (
        f"{_ms(plan.p95_s)}, {_ms(plan.p95_with_one_lost_s)} with one replica of each lost; "
        f"{_ms(plan.floor_p95_s)} without any queue"
    )
    rows = [
        ("Postgres", postgres),
        ("OpenSearch", opensearch),
        ("provider quota", quota),
        ("cost", f"{providers.usd_per_1000_questions:.2f} USD for 1,000 questions"),
        ("answer p95", times),
    ]
    table(("", ""), rows)
    for note in plan.notes:
        print(f"- {note}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1e6 else "never"


def _show_check(found: list[Comparison], *, as_json: bool) -> None:
    from meshkit.cli.output import print_json, table

    rows = [{**asdict(each), "error": each.error, "holds": each.holds} for each in found]
    wrong = [each for each in found if not each.holds]
    if as_json:
        print_json({"compared": rows, "failed": len(wrong)})
    else:
        table(
            ("step", "what", "predicted", "measured", "off by", ""),
            [
                (
                    each.step,
                    each.what,
                    f"{each.predicted:.3f}",
                    f"{each.measured:.3f}",
                    f"{each.error:+.0%}",
                    "" if each.holds else "too far",
                )
                for each in found
            ],
        )
    if not found:
        raise CommandFailed(
            "The other report has no step that could be judged.", "NOTHING_TO_CHECK"
        )
    if wrong:
        raise CommandFailed(
            f"{len(wrong)} of {len(found)} predictions are off by more than 20 %.",
            "PREDICTION_TOO_FAR",
        )
