"""The capacity model: laws that must hold, a machine it foresees, plans it makes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshkit.capacity import Measured, ReportInvalid, Target, compare, plan
from meshkit.capacity.model import (
    ALONE,
    cores_of,
    most_on_this_machine,
    on_a_cluster,
    on_this_machine,
)
from meshkit.capacity.queueing import erlang_c, stretch, utilisation
from meshkit.cli.app import app
from meshkit.cli.failure import CommandFailed

DEMANDS = {
    "answer": {"gateway": 0.005, "generation": 0.02, "retrieval": 0.01, "postgres": 0.006},
    "search": {"gateway": 0.002, "retrieval": 0.009, "postgres": 0.003},
}
IDLE = {"gateway": 0.003, "generation": 0.004, "retrieval": 0.003, "postgres": 0.002}
ALONE_S = 1.0
MIX = {"answer": 0.8, "search": 0.2}


def step(name: str, rates: Mapping[str, float], mean_s: float, seconds: float = 60.0) -> Any:
    """A step as a report has it, of a machine that is just as the demands say."""
    cores = dict(IDLE)
    for kind, rate in rates.items():
        for service, demand in DEMANDS[kind].items():
            cores[service] += rate * demand
    mesh = sum(cores.values())
    times = {"mean": mean_s * 1e3, "p50": mean_s * 950, "p95": mean_s * 1400, "p99": mean_s * 1600}
    return {
        "name": name,
        "seconds": seconds,
        "offered_per_s": sum(rates.values()),
        "other_tracks": {"offered_per_s": 0.0},
        "classes": {kind: rate * seconds for kind, rate in rates.items()},
        "cores": {**cores, "generator": 0.05, "simulator": 0.05, "machine": mesh + 0.1},
        "latency_by_class": dict.fromkeys(rates, times),
    }


def report(steps: list[Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "scenario": "peak",
        "environment": {"cores": 2, "commit": "abc"},
        "demands": {k: {**v, "simulator": 0.001} for k, v in DEMANDS.items()},
        "idle_cores": IDLE,
        "preparation": [
            step("ask alone", {"answer": 2.0}, ALONE_S),
            step("search alone", {"search": 5.0}, 0.1),
        ],
        "steps": steps,
        "at_rest": steps[0]["name"],
        "at_peak": steps[-1]["name"],
        "providers": {"input_tokens": 2000.0, "output_tokens": 40.0, "cost_usd": 0.001},
        "documents": 56,
        "memory": {name: {"most_mb": 200.0} for name in IDLE},
    }


REPORT = report([step("rest", {"answer": 1.0}, ALONE_S), step("peak", MIX, ALONE_S)])
MEASURED = Measured.of(REPORT)


# Laws.


def test_erlangs_c_is_what_the_tables_say():
    assert erlang_c(1, 0.5) == pytest.approx(0.5)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-3)


@given(st.integers(1, 200), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_busier_server_is_never_faster(servers: int, one: float, other: float):
    low, high = sorted((one, other))
    assert 1 <= stretch(servers, low) <= stretch(servers, high) * (1 + 1e-9)


@given(st.integers(1, 100), st.floats(0.01, 0.99))
def test_more_servers_at_the_same_share_wait_less(servers: int, busy: float):
    assert stretch(servers + 1, busy) <= stretch(servers, busy) * (1 + 1e-9)


def test_the_formula_foresees_a_queue_that_was_played_through():
    chance = random.Random(3)
    servers, rate, mean = 3, 2.1, 1.0
    free, clock, spent = [0.0] * servers, 0.0, 0.0
    for _ in range(60_000):
        clock += chance.expovariate(rate)
        at = min(range(servers), key=free.__getitem__)
        free[at] = max(clock, free[at]) + chance.expovariate(1 / mean)
        spent += free[at] - clock
    assert spent / 60_000 / mean == pytest.approx(
        stretch(servers, utilisation(rate, mean, servers)), rel=0.05
    )


# Predictions.


def test_cores_are_what_requests_cost_and_idling():
    found = cores_of(MEASURED, {"answer": 10.0, "search": 4.0})
    assert found["generation"] == pytest.approx(0.2 + 0.004)
    assert found["postgres"] == pytest.approx(0.06 + 0.012 + 0.002)


def test_an_answer_takes_less_the_busier_the_machine_is():
    alone = Measured.of({**REPORT, "demands": {**REPORT["demands"], ALONE: {"generation": 0.02}}})
    calm = on_this_machine(alone, {"answer": 1.0}, 0.0).cores["generation"]
    bare = on_this_machine(MEASURED, {"answer": 1.0}, 0.0).cores["generation"]
    assert 0.01 < calm - bare < 0.02
    busy = on_this_machine(alone, {"answer": 1.0}, MEASURED.cores).cores["generation"]
    assert busy == pytest.approx(bare)
    # A plan's replicas are used, and never more than it says.
    assert cores_of(alone, {"answer": 1.0})["generation"] == pytest.approx(bare)


def test_at_rest_the_model_says_what_was_measured():
    found = on_this_machine(MEASURED, {"answer": 2.0}, MEASURED.rest.other_cores)
    assert found.mean_s["answer"] == pytest.approx(ALONE_S, rel=1e-6)


def test_only_the_processors_share_of_a_request_grows_with_load():
    found = on_this_machine(MEASURED, {"answer": 20.0}, 0.1)
    grown = found.mean_s["answer"] - ALONE_S
    assert 0 < grown < 0.2
    assert found.p95_s["answer"] > 1.4 * ALONE_S


def test_beyond_its_cores_nothing_is_answered():
    found = on_this_machine(MEASURED, {"answer": 60.0}, 0.0)
    assert found.mean_s["answer"] == float("inf")


def test_another_run_that_follows_the_laws_is_foreseen():
    rates = {"answer": 12.0, "search": 10.0}
    mean = on_this_machine(MEASURED, rates, 0.1).mean_s["answer"]
    other = Measured.of(report([step("rest", {"answer": 3.0}, 1.0), step("peak", rates, mean)]))
    found = compare(MEASURED, other)
    assert {each.what for each in found} >= {"mesh, cores", "new answers, mean s"}
    assert all(each.holds for each in found)


def test_the_time_of_answers_on_a_full_machine_is_not_judged():
    def judged(rate: float) -> set[str]:
        steps = [step("peak", {"answer": rate}, 1.0)]
        return {each.what for each in compare(MEASURED, Measured.of(report(steps)))}

    assert judged(40.0) - judged(45.0) == {"new answers, mean s"}
    assert "mesh, cores" in judged(45.0)


def test_another_run_that_cost_twice_as_much_is_not():
    rates = {"answer": 12.0, "search": 10.0}
    wrong = step("peak", rates, 1.0)
    wrong["cores"] = {name: used * 2 for name, used in wrong["cores"].items()}
    found = compare(MEASURED, Measured.of(report([wrong])))
    assert not any(each.holds for each in found if each.what.endswith("cores"))


# Plans.


def target(**more: Any) -> Target:
    return replace(Target(500.0, 2.0, MIX, 1_000_000), **more)


def test_a_plan_keeps_its_limits_with_one_of_each_lost():
    found = plan(MEASURED, target())
    assert found.feasible
    assert found.p95_with_one_lost_s <= 2.0
    for service in found.services:
        assert service.replicas >= 2
        assert service.busy <= 0.6
        assert service.busy_with_one_lost <= 0.8
    generation = next(each for each in found.services if each.name == "generation")
    assert generation.cores == pytest.approx(400 * 0.02 + 0.004)
    assert found.postgres_cores * 0.6 >= 400 * 0.006 + 100 * 0.003


def test_a_nearer_objective_takes_more_replicas():
    wide = plan(MEASURED, target())
    narrow = plan(MEASURED, target(slo_p95_s=1.41))
    assert narrow.feasible
    assert sum(s.replicas for s in narrow.services) > sum(s.replicas for s in wide.services)


def test_an_objective_below_the_time_alone_is_out_of_reach():
    found = plan(MEASURED, target(slo_p95_s=1.2))
    assert not found.feasible
    assert "no number of replicas" in found.why_not


def test_quota_and_cost_follow_from_the_answers():
    found = plan(MEASURED, target()).providers
    assert found.answers_per_minute == pytest.approx(400 * 60)
    assert found.input_tokens_per_minute == pytest.approx(400 * 60 * 2000)
    assert found.usd_per_1000_questions == pytest.approx(1.0)


def test_two_cores_stay_two_cores():
    found = plan(MEASURED, target())
    most, limit = most_on_this_machine(MEASURED, MIX)
    assert found.here_per_s == pytest.approx(most)
    assert limit == "the processor"
    assert any("More replicas on it add nothing" in note for note in found.notes)
    used = cores_of(MEASURED, {name: share * most for name, share in MIX.items()})
    assert sum(used.values()) == pytest.approx(2.0)


def test_one_event_loop_can_be_full_before_the_machine_is():
    machine = replace(MEASURED, cores=64)
    most, limit = most_on_this_machine(machine, MIX)
    assert limit == "one event loop of generation"
    assert most * 0.8 * 0.02 == pytest.approx(1 - 0.004)


@given(st.floats(0.1, 5000), st.floats(0.0, 1.0))
def test_every_plan_is_enough(per_second: float, answers: float):
    mix = {"answer": answers, "search": 1 - answers}
    found = plan(MEASURED, target(per_second=per_second, mix=mix))
    servers = {each.name: each.replicas for each in found.services}
    servers["postgres"] = found.postgres_cores
    again = on_a_cluster(MEASURED, found.target.rates, servers)
    assert found.feasible
    assert again.p95_s["answer"] <= 2.0


# The command.


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["capacity", *arguments])


def test_the_command_prints_a_plan_for_people_and_for_programs(tmp_path: Path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(REPORT))
    shown = run("--report", str(path), "--qps", "500", "--slo-p95-ms", "2000")
    assert shown.exit_code == 0, shown.output
    assert "generation" in shown.output
    assert "More replicas on it add nothing" in shown.output
    told = run("--report", str(path), "--qps", "500", "--mix", "search=1", "--json")
    assert json.loads(told.output)["target"]["mix"] == {"search": 1.0}


def test_the_command_checks_its_model_against_another_run(tmp_path: Path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(REPORT))
    rates = {"answer": 12.0}
    mean = on_this_machine(MEASURED, rates, 0.1).mean_s["answer"]
    other.write_text(json.dumps(report([step("peak", rates, mean)])))
    assert run("--report", str(one), "--check", str(other)).exit_code == 0
    other.write_text(json.dumps(report([step("peak", rates, mean * 2)])))
    failed = run("--report", str(one), "--check", str(other))
    assert isinstance(failed.exception, CommandFailed)
    assert failed.exception.reason == "PREDICTION_TOO_FAR"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 99}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "report.json"
    path.write_text(content)
    failed = run("--report", str(path))
    assert isinstance(failed.exception, CommandFailed)
    assert failed.exception.reason == "REPORT_INVALID"
    with pytest.raises(ReportInvalid):
        Measured.of(json.loads(content or "null"))
