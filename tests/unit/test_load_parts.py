"""The pure parts of `make load`: mix, arrivals, scaling law, demands, traces, page."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load import analysis, page, samples, svg, traces
from loadtest.load.arrivals import arrivals
from loadtest.load.demands import Window, demands
from loadtest.load.mix import Actions, load_mix
from loadtest.load.observed import Snapshot, Watcher, between, growth_mb_per_hour
from loadtest.load.open_driver import closing
from loadtest.load.plan import Plan, Stretch, Track, ladder
from loadtest.load.report import assemble, summary
from loadtest.load.run import Seen
from loadtest.load.samples import Sample
from loadtest.load.scaling import Law, Rung, fit, solve
from loadtest.load.scenarios import SCENARIOS, rate_at, scenario

MIX = load_mix()
NAMES = {"steady", "ramp", "peak", "soak", "upload_storm", "outage", "noisy_neighbour"}


# The mix.


def test_what_is_asked_follows_the_shares_of_the_file():
    actions = Actions(MIX, seed=3)
    kinds: Counter[str] = Counter()
    for number in range(6000):
        action = actions.next()
        kinds[action.kind] += 1
        actions.answered(action)
        if action.kind == "upload":
            actions.uploaded(f"doc-{number}")
    for kind, share in MIX.kinds.items():
        assert kinds[kind] / 6000 == pytest.approx(share, abs=0.03), kind


def test_topics_are_popular_by_zipfs_law():
    actions = Actions(MIX.only("ask", 0.0), seed=5)
    topics = Counter(actions.next().topic for _ in range(8000))
    first, fourth = MIX.topics[0].title, MIX.topics[3].title
    assert topics[first] / topics[fourth] == pytest.approx(4**MIX.zipf, rel=0.25)


def test_a_follow_up_continues_a_conversation_that_was_answered():
    actions = Actions(replace(MIX, kinds={"ask": 0.5, "follow_up": 0.5}), seed=1)
    answered: dict[str, str] = {}
    continued = 0
    for _ in range(200):
        action = actions.next()
        if action.kind == "follow_up":
            assert answered.pop(action.conversation) == action.topic
            continued += 1
        else:
            actions.answered(action)
            answered[action.conversation] = action.topic
    assert continued > 50


def test_only_documents_that_arrived_are_deleted():
    actions = Actions(replace(MIX, kinds={"delete": 1.0}), seed=1)
    assert actions.next().kind == "ask"
    actions.uploaded("doc-1")
    assert actions.next().target == "doc-1"
    assert actions.next().kind == "ask"


def test_fresh_questions_repeat_nobodys_words():
    actions = Actions(MIX.only("ask", 1.0), seed=9)
    asked = [actions.next().question for _ in range(500)]
    assert len(set(asked)) == 500


def test_the_same_seed_does_the_same():
    one, other = Actions(MIX, 4), Actions(MIX, 4)
    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]


# Arrivals and scenarios.


@pytest.mark.parametrize(("begins", "ends"), [(40.0, 40.0), (5.0, 75.0), (75.0, 5.0), (0.0, 80.0)])
def test_arrivals_come_at_the_rate_that_was_asked_for(begins: float, ends: float):
    found = list(arrivals(100.0, begins, ends, random.Random(2)))
    expected = 100 * (begins + ends) / 2
    assert len(found) == pytest.approx(expected, abs=4 * expected**0.5)
    assert found == sorted(found)
    early = sum(at < 50 for at in found)
    expected_early = 50 * (begins + (begins + ends) / 2) / 2
    assert early == pytest.approx(expected_early, abs=4 * expected_early**0.5 + 1)


@given(st.floats(0.1, 30), st.floats(0, 50), st.floats(0, 50), st.integers(0, 10**6))
def test_every_arrival_lies_in_its_stretch(seconds: float, begins: float, ends: float, seed: int):
    found = list(arrivals(seconds, begins, ends, random.Random(seed)))
    assert all(0 <= at < seconds for at in found)


def test_gaps_of_an_even_rate_vary_as_a_poisson_process_does():
    found = list(arrivals(2000.0, 5.0, 5.0, random.Random(8)))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.06)


def test_every_scenario_has_a_short_form_with_the_same_steps():
    assert set(SCENARIOS) == NAMES
    for full, short in SCENARIOS.values():
        assert [s.name for s in full.steps] == [s.name for s in short.steps]
        assert sum(s.seconds for s in short.steps) <= 120
        assert {full.at_rest, full.at_peak} <= {s.name for s in full.steps}
        names = [s.name for s in full.steps]
        assert len(set(names)) == len(names)


def test_the_peak_is_ten_times_the_rest_within_two_minutes():
    steps = scenario("peak", short=False).steps
    rest, rise = steps[0], steps[1]
    before, after = rate_at(steps, rest.seconds - 1), rate_at(steps, rest.seconds + 120)
    assert rise.seconds <= 120
    assert after == pytest.approx(10 * before)


def test_the_storm_brings_a_thousand_documents():
    assert sum(step.documents for step in scenario("upload_storm", short=False).steps) == 1000


# The scaling law.


def test_a_ladder_made_by_the_law_gives_it_back():
    law = Law(one_user=8.0, contention=0.05, coherence=0.002)
    users = [1, 2, 4, 8, 16, 32, 64]
    found = solve(users, [law.at(n) for n in users])
    assert found.one_user == pytest.approx(8.0)
    assert found.contention == pytest.approx(0.05)
    assert found.coherence == pytest.approx(0.002)
    assert found.best_users == pytest.approx((0.95 / 0.002) ** 0.5)


def test_intervals_hold_the_truth_of_a_noisy_ladder():
    law, chance = Law(6.0, 0.08, 0.001), random.Random(11)
    rungs = [
        Rung(n, [max(0.0, chance.gauss(law.at(n), law.at(n) ** 0.5)) for _ in range(30)])
        for n in (1, 2, 4, 8, 16, 32, 64)
    ]
    found = fit(rungs)
    low, high = found.intervals["max_per_s"]
    assert low <= law.most(64) <= high
    assert low < found.max_per_s < high
    assert found.r2 > 0.9


def test_the_knee_is_where_the_two_straight_lines_meet():
    law = Law(2.0, 0.1, 0.0)
    assert law.knee_users(64) == pytest.approx(law.at(64) / 2.0)


def test_nothing_negative_is_fitted_to_a_ladder_that_grows_faster_than_its_users():
    found = solve([1, 2, 4], [1.0, 2.2, 5.0])
    assert found.contention == 0.0
    assert found.coherence == 0.0


def test_two_rungs_are_no_ladder():
    with pytest.raises(ValueError, match="three rungs"):
        solve([1, 2], [1.0, 2.0])


# Demands.


def test_demands_are_told_apart_by_steps_of_different_mixes():
    truth = {"answer": {"generation": 0.02, "postgres": 0.004}, "search": {"postgres": 0.003}}
    idle = {"generation": 0.01, "postgres": 0.02}

    def window(answers: float, searches: float) -> Window:
        cpu = {
            "generation": answers * 0.02 + 10 * 0.01,
            "postgres": answers * 0.004 + searches * 0.003 + 10 * 0.02,
        }
        return Window(10.0, {"answer": answers, "search": searches}, cpu)

    found = demands([window(100, 0), window(20, 300), window(250, 100)], idle)
    assert found["answer"]["generation"] == pytest.approx(truth["answer"]["generation"], rel=0.02)
    assert found["answer"]["postgres"] == pytest.approx(truth["answer"]["postgres"], rel=0.02)
    assert found["search"]["postgres"] == pytest.approx(truth["search"]["postgres"], rel=0.02)
    assert found["search"]["generation"] == pytest.approx(0.0, abs=1e-4)


def test_an_answer_alone_takes_more_than_one_of_many():
    def window(answers: float, busy: float) -> Window:
        spent = answers * (0.03 + 0.02 * (1 - busy) ** 2)
        return Window(10.0, {"answer": answers}, {"generation": spent}, busy)

    found = demands([window(10, 0.1), window(100, 0.4), window(400, 0.9)], {})
    assert found["answer"]["generation"] == pytest.approx(0.03, rel=0.02)
    assert found["answer_alone"]["generation"] == pytest.approx(0.02, rel=0.05)


# Traces.


def span(identity: str, parent: str, begins: float, ends: float, name: str = "x") -> traces.Span:
    return traces.Span("t", identity, parent, "s", name, begins, ends)


def test_own_time_is_what_no_child_covers():
    parent = span("a", "", 0.0, 10.0)
    children = [span("b", "a", 1.0, 4.0), span("c", "a", 3.0, 5.0), span("d", "a", 9.0, 12.0)]
    assert traces.own_seconds(parent, children) == pytest.approx(10 - 4 - 1)


def test_hops_are_those_of_answers_that_began_in_the_stretch():
    spans = [
        span("a", "", 5.0, 6.0, traces.ROOT),
        span("b", "a", 5.2, 5.9),
        traces.Span("u", "c", "", "s", traces.ROOT, 50.0, 51.0),
        traces.Span("v", "d", "", "s", "POST /v1/search", 5.0, 9.0),
    ]
    found = {hop.name: hop for hop in traces.hops(spans, 0.0, 10.0)}
    assert set(found) == {traces.ROOT, "x"}
    assert found[traces.ROOT].own_ms == pytest.approx(300)
    assert found["x"].per_answer == 1


def test_the_file_of_spans_that_a_process_writes_is_read(tmp_path: Path):
    line = {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [
                        {"key": "service.name", "value": {"stringValue": "citemesh-gateway"}}
                    ]
                },
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "aa",
                                "spanId": "bb",
                                "name": traces.ROOT,
                                "startTimeUnixNano": "2000000000",
                                "endTimeUnixNano": "2500000000",
                            }
                        ]
                    }
                ],
            }
        ]
    }
    (tmp_path / "gateway.jsonl").write_text(json.dumps(line) + "\n")
    assert traces.read(tmp_path) == [
        traces.Span("aa", "bb", "", "gateway", traces.ROOT, 2.0, 2.5),
    ]


# Samples, snapshots, steps.


def sample(at: float, *, total: float = 1.0, kind: str = "ask", **more: object) -> Sample:
    found = Sample("peak", "main", kind, at, at + 0.01, at + total / 2, at + total, right=True)
    return replace(found, **more)  # type: ignore[arg-type]


def test_a_sample_is_read_as_it_was_written(tmp_path: Path):
    found = sample(3.0, degraded=("rerank",), reason="X")
    with (tmp_path / "s.jsonl").open("w") as file:
        samples.write(file, found)
    assert samples.read(tmp_path / "s.jsonl") == [found]


def test_latency_counts_from_when_a_request_was_due():
    late = Sample("s", "main", "ask", due=10.0, sent=12.0, first=12.5, end=13.0)
    assert late.to_first == pytest.approx(2.5)
    assert late.total == pytest.approx(3.0)


def test_an_answer_is_good_only_in_time():
    assert analysis.good(sample(0.0), MIX.slo)
    assert not analysis.good(sample(0.0, total=7.0), MIX.slo)
    assert not analysis.good(sample(0.0, reason="OVERLOADED"), MIX.slo)


def test_a_follow_up_is_promised_its_own_time_and_a_search_counts_as_a_whole():
    assert analysis.good(sample(0.0, total=5.0, kind="follow_up"), MIX.slo)
    assert not analysis.good(sample(0.0, total=5.0), MIX.slo)
    assert not analysis.good(sample(0.0, total=2.5, kind="search", first=0.0), MIX.slo)
    # No text comes before the whole of it, so that it is held to the whole's time only.
    assert analysis.good(sample(0.0, total=2.5, kind="ask_whole", first=0.0), MIX.slo)
    assert analysis.good(sample(0.0, total=20.0, kind="upload", first=0.0), MIX.slo)


def test_processor_time_between_two_looks_is_a_straight_line():
    looks = [Snapshot(0.0, {"a": 1.0}, {"a": 50.0}), Snapshot(10.0, {"a": 3.0}, {"a": 60.0})]
    assert between(looks, 2.5, 5.0) == {"a": pytest.approx(0.5)}


def test_memory_that_grows_is_seen():
    looks = [Snapshot(60.0 * n, {}, {"a": 100 + n}) for n in range(10)]
    assert growth_mb_per_hour(looks, "a") == pytest.approx(60.0)


def test_littles_law_holds_for_what_was_counted_whole():
    stretch = analysis.Stretch("peak", 0.0, 100.0)
    found = [sample(n / 2, total=1.0) for n in range(200)]
    counted = analysis.in_flight(found, stretch)
    law = analysis.littles_law(stretch, counted, found)
    assert law["steady"]
    assert law["ratio"] == pytest.approx(1.0, abs=0.02)


def test_littles_law_counts_who_was_turned_away_after_a_wait():
    stretch = analysis.Stretch("2 users", 0.0, 100.0)
    served = [sample(float(n), total=1.0) for n in range(100)]
    refused = [sample(n / 4, total=0.25, reason="SERVICE_BUSY") for n in range(400)]
    law = analysis.littles_law(stretch, 2.0, [*served, *refused])
    assert law["ratio"] == pytest.approx(1.0, abs=0.05)
    assert law["per_s"] == pytest.approx(5.0, abs=0.1)


def test_quality_says_how_sure_it_is():
    found = analysis.quality([sample(n, right=n % 10 != 0) for n in range(100)])
    assert found["right"] == 0.9
    assert found["low"] < 0.9 < found["high"]


def test_the_end_of_a_stream_is_its_done_event():
    text = 'event: delta\ndata: {"text": "a"}\n\nevent: done\ndata: {"answer": "a"}\n\n'
    assert closing(text) == {"answer": "a"}


def test_a_plan_is_read_as_it_was_written(tmp_path: Path):
    track = Track("main", "KEY", dict(MIX.kinds), 0.5, 3, ladder((1, 2), 5.0))
    plan = Plan("http://127.0.0.1:1", (track,), drain=True)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    assert plan.tracks[0].steps[1] == Stretch("2 users", 5.0, 2, 2)


# The report.


def seen_run() -> tuple[Seen, int]:
    """A made-up run of the scenario `peak`, second by second."""
    chosen = scenario("peak", short=True)
    seen = Seen(idle={"generation": 0.01})
    watcher = seen.watcher = Watcher(Path("nowhere"), list)
    at, found = 1000.0, []
    for step in chosen.steps:
        seen.stretches.append(analysis.Stretch(step.name, at, at + step.seconds))
        for number in range(int(step.seconds * 2)):
            failed = step.name == "3x the knee" and number % 4 == 0
            found.append(
                sample(
                    at + number / 2,
                    step=step.name,
                    reason="OVERLOADED" if failed else "",
                    degraded=("rerank",) if number % 9 == 0 else (),
                )
            )
        at += step.seconds
    seen.samples = found
    for second in range(int(at - 1000) + 2):
        watcher.snapshots.append(
            Snapshot(
                1000.0 + second,
                {"generation": second * 0.3, "generator": second * 0.05, "machine": second * 0.5},
                {"generation": 100.0 + second},
            )
        )
    looks = watcher.snapshots
    seen.steps = [analysis.step_figures(s, found, looks, MIX.slo) for s in seen.stretches]
    law = Law(2.0, 0.05, 0.001)
    rungs = [Rung(n, [law.at(n)] * 5) for n in (1, 2, 4, 8)]
    seen.fit = fit(rungs)
    for rung in rungs:
        stretch = analysis.Stretch(f"{rung.users:.0f} users", 1000.0, 1020.0)
        figures = analysis.step_figures(stretch, found, looks, MIX.slo)
        seen.rungs.append({"users": rung.users, "per_s": rung.throughput, **figures})
        counted = analysis.in_flight(found, stretch)
        seen.littles_law.append(analysis.littles_law(stretch, counted, found))
    return seen, len(found)


def test_a_report_tells_what_held_and_stands_on_its_own():
    seen, _ = seen_run()
    about = {"cores": 2, "commit": "abc<script>"}
    report = assemble(scenario("peak", short=True), MIX, seen, about, short=True)
    report = json.loads(json.dumps(report))
    last = summary(report, {})
    assert last["knee_per_s"] > 0
    assert last["p95_ms"] == pytest.approx(1000.0)
    assert last["error_share"] == 0
    assert last["goodput_share_at_3x"] == pytest.approx(0.75, abs=0.03)
    assert last["quality"] == {"at_rest": 1.0, "at_peak": 1.0}
    assert last["failed"] == ["goodput at three knees"]
    html = page.render(report)
    assert "does not hold" in html
    assert html.count("<svg") == html.count("</svg>") >= 4
    assert "abc&lt;script&gt;" in html
    for outside in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert outside not in html


def test_a_plot_without_points_says_so():
    assert "Nothing was measured" in svg.plot([], across="s", up="n")


@pytest.mark.parametrize("most", [0.0003, 0.7, 1.0, 9.99, 10.0, 1234.0])
def test_ticks_are_round_and_reach_the_top(most: float):
    found = svg.ticks(most)
    assert found[0] == 0
    assert found[-1] >= most * 0.999
    assert 2 <= len(found) <= 12
