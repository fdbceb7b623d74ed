"""The mesh over the APIs of providers, simulated: `citemesh up --simulate`, as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadtest.simulator.running import RunningSimulator
from tests.mesh.conftest import RunningMesh, start_mesh, stop_process, wait_until
from tests.mesh.documents import ingest
from tests.mesh.test_question import SAMPLES, server_sent_events

QUESTION = "How many days of paid vacation does every employee have in a calendar year?"
SPACES = "gemini/gemini-embedding-001@768,local/bge-small-en-v1.5@384"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A mesh and the providers it calls."""

    mesh: RunningMesh
    providers: RunningSimulator
    document: str

    def ask(self, **more: Any) -> dict[str, Any]:
        body = {"question": QUESTION, "bypass_cache": True, **more}
        reply = self.mesh.http.post("/v1/answers", json=body)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def stream(self) -> list[tuple[str, dict[str, Any]]]:
        body = {"question": QUESTION, "bypass_cache": True, "stream": True}
        with self.mesh.http.stream("POST", "/v1/answers", json=body) as reply:
            return list(server_sent_events(reply.iter_lines()))

    def search(self) -> dict[str, Any]:
        body = {"query": QUESTION, "bypass_cache": True, "rerank": True}
        reply = self.mesh.http.post("/v1/search", json=body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def all_is_told(self) -> bool:
        """Whether the ledger has whatever was spent: no process holds a block any more."""
        reserved: float = self.mesh.http.get("/v1/usage").json()["budget"]["reserved_usd"]
        return reserved == 0

    def spent(self) -> dict[tuple[str, str], int]:
        """Micro-dollars by stage and provider."""
        rows = self.mesh.http.get("/v1/usage").json()["days"]
        found: dict[tuple[str, str], int] = {}
        for row in rows:
            key = (row["stage"], row["provider"])
            found[key] = found.get(key, 0) + round(row["cost_usd"] * 1_000_000)
        return found


@pytest.fixture(scope="module")
def running(scratch: Path) -> Iterator[Simulated]:
    directory = scratch / "simulated"
    directory.mkdir()
    directory.chmod(0o711)
    mesh = start_mesh(
        directory,
        None,
        "--simulate",
        CITEMESH_EMBEDDING_SPACES=SPACES,
        # The next test is to find providers that are not resting from this one's faults.
        CITEMESH_BREAKER_ACCOUNT_LADDER="0.02",
        CITEMESH_BREAKER_TRANSIENT_LADDER="0.02",
        CITEMESH_BREAKER_RAMP_SECONDS="0.001",
    )
    try:
        providers = RunningSimulator.at(mesh.child("simulator").address)
        providers.reset()
        document = ingest(mesh.http, SAMPLES / "employee-handbook.pdf")
        running = Simulated(mesh, providers, document["id"])
        # The second space is filled beside the first one, and stands by.
        providers.fault("server_error", operation="embed")
        wait_until(lambda: running.search()["degraded"] == ["dense_standby"], 60, "it stands by")
        yield running
        providers.http.close()
    finally:
        mesh.http.close()
        stop_process(mesh.process)


@pytest.fixture
def simulated(running: Simulated) -> Simulated:
    """The mesh with providers that work."""
    running.providers.reset()
    return running


def test_an_answer_is_embedded_ranked_and_written_by_the_providers(simulated: Simulated) -> None:
    answer = simulated.ask()
    assert "26 days" in answer["answer"]
    assert (answer["provider"], answer["model"]) == ("gemini", "gemini-3.8-flash")
    assert answer["degraded"] == []
    assert answer["confidence"] == "grounded"
    cited = answer["citations"][0]
    assert (cited["document_id"], cited["page"], cited["supported"]) == (
        simulated.document,
        2,
        True,
    )
    assert "26 days" in cited["quote"]
    assert answer["cost_usd"] > 0
    counts = simulated.providers.counts
    assert counts("gemini", "embed")["answered"] == 1
    assert counts("cohere", "rerank")["answered"] == 1
    assert counts("gemini", "generate")["answered"] == 1


def test_what_is_spent_is_in_the_ledger_by_provider(simulated: Simulated) -> None:
    wait_until(simulated.all_is_told, 15, "what was asked before is in the ledger")
    before = simulated.spent()
    answer = simulated.ask()

    def more(stage: str, provider: str) -> int:
        key = (stage, provider)
        return simulated.spent().get(key, 0) - before.get(key, 0)

    wait_until(lambda: more("generate", "gemini") > 0, 5, "the answer is in the ledger")
    wait_until(lambda: more("embed", "gemini") > 0, 5, "the question's vector is in the ledger")
    wait_until(lambda: more("rerank", "cohere") > 0, 5, "the scores are in the ledger")
    total = more("generate", "gemini") + more("embed", "gemini") + more("rerank", "cohere")
    assert total == round(answer["cost_usd"] * 1_000_000)


def test_a_follow_up_question_is_completed_by_the_cheapest_model(simulated: Simulated) -> None:
    first = simulated.ask(conversation_id="talk")
    assert [use["stage"] for use in first["usage"]["models"]].count("rewrite") == 0
    answer = simulated.ask(conversation_id="talk", question="And after five years?")
    # The question itself says nothing of vacation.
    assert "vacation" in answer["answer"]
    [rewrite] = [use for use in answer["usage"]["models"] if use["stage"] == "rewrite"]
    assert (rewrite["provider"], rewrite["model"]) == ("anthropic", "claude-haiku-5-5")
    assert rewrite["cost_usd"] > 0
    # What it cost is in the answer's cost and in the project's ledger.
    spent = sum(use["cost_usd"] for use in answer["usage"]["models"])
    assert answer["cost_usd"] == pytest.approx(spent)
    wait_until(lambda: ("rewrite", "anthropic") in simulated.spent(), 30, "it is in the ledger")


def test_a_follow_up_that_no_model_completes_is_completed_by_rules(simulated: Simulated) -> None:
    simulated.ask(conversation_id="rules")
    simulated.providers.fault("overloaded", provider="anthropic", operation="generate")
    answer = simulated.ask(conversation_id="rules", question="And after five years?")
    # The question itself says nothing of vacation.
    assert "vacation" in answer["answer"]
    assert answer["degraded"] == ["rewrite"]


def test_the_next_language_model_answers_when_the_first_does_not(simulated: Simulated) -> None:
    simulated.providers.fault("overloaded", provider="gemini", operation="generate")
    answer = simulated.ask()
    assert answer["provider"] == "anthropic"
    assert "26 days" in answer["answer"]
    assert answer["degraded"] == []


def test_when_no_language_model_answers_the_sources_are_quoted(simulated: Simulated) -> None:
    simulated.providers.fault("key_leaked", operation="generate")
    answer = simulated.ask()
    assert answer["provider"] == "local"
    # The thresholds of the local answerer are not measured for this reranker's scores.
    assert answer["degraded"] == ["generation", "calibration"]
    assert "26 days" in answer["answer"]


def test_with_every_provider_dead_search_and_answers_go_on(simulated: Simulated) -> None:
    simulated.providers.fault("server_error")
    found = simulated.search()
    # The question is embedded in the standby space and compared with that one's vectors alone.
    assert found["degraded"] == ["dense_standby"]
    assert found["hits"][0]["document_id"] == simulated.document
    assert found["hits"][0]["signals"]["rerank_score"] is not None
    answer = simulated.ask()
    assert answer["provider"] == "local"
    assert set(answer["degraded"]) == {"dense_standby", "generation"}
    assert "26 days" in answer["answer"]


@pytest.mark.parametrize("fault", ["wrong_dimension", "empty_vector", "zero_vector"])
def test_a_vector_that_does_not_fit_is_used_for_nothing(simulated: Simulated, fault: str) -> None:
    simulated.providers.fault(fault, operation="embed")
    assert simulated.search()["degraded"] == ["dense_standby"]


@pytest.mark.parametrize("fault", ["reset", "truncated", "malformed", "overloaded"])
def test_another_model_goes_on_with_a_stream_that_breaks(simulated: Simulated, fault: str) -> None:
    simulated.providers.fault(fault, provider="gemini", operation="generate", after=18)
    text, switched, done = told(simulated.stream())
    assert "26 days" in done["answer"]
    # What a reader is left with is the answer; nobody's words are spliced, and none come twice.
    assert text == done["answer"]
    said = [sentence.strip() for sentence in re.split(r"\[\d\]", text) if sentence.strip()]
    assert len(said) == len(set(said))
    assert (done["provider"], done["degraded"]) == ("anthropic", [])
    [event] = switched
    assert (event["from_provider"], event["to_provider"]) == ("gemini", "anthropic")
    assert event["reason"].startswith("PROVIDER_")
    assert all(citation["supported"] for citation in done["citations"])


def test_when_every_stream_breaks_the_sources_are_quoted(simulated: Simulated) -> None:
    simulated.providers.fault("reset", operation="generate", after=4)
    text, switched, done = told(simulated.stream())
    assert text == done["answer"]
    assert "26 days" in text
    assert (done["provider"], done["degraded"]) == ("local", ["generation", "calibration"])
    assert [event["to_provider"] for event in switched] == ["anthropic", "cohere", "local"]


def told(events: list[tuple[str, dict[str, Any]]]) -> tuple[str, list[dict[str, Any]], Any]:
    """What the events leave a reader with, who went on, and the closing event."""
    text, switched = "", []
    for name, data in events:
        if name == "delta":
            text += data["text"]
        elif name == "retract":
            text = text[: data["start"]] + data["replacement"] + text[data["end"] :]
        elif name == "provider_switched":
            switched.append(data)
            text = "" if data["restarted"] else text
    name, done = events[-1]
    assert name == "done", done
    return text, switched, done


def test_a_caller_that_goes_away_closes_the_providers_stream(simulated: Simulated) -> None:
    simulated.providers.pace(generate={"tokens_per_second": 4, "spread": 0})
    body = {"question": QUESTION, "bypass_cache": True, "stream": True}
    with simulated.mesh.http.stream("POST", "/v1/answers", json=body) as reply:
        for name, _ in server_sent_events(reply.iter_lines()):
            if name == "delta":
                break
    counts = simulated.providers.counts
    wait_until(lambda: counts("gemini", "generate").get("abandoned") == 1, 5, "it is closed")


def test_the_trace_of_an_answer_that_was_left_says_so_on_every_hop(simulated: Simulated) -> None:
    simulated.providers.pace(generate={"tokens_per_second": 4, "spread": 0})
    body = {"question": QUESTION, "bypass_cache": True, "stream": True}
    request = "req-left-in-the-middle"
    headers = {"X-Request-ID": request}
    http = simulated.mesh.http
    with http.stream("POST", "/v1/answers", json=body, headers=headers) as reply:
        for name, _ in server_sent_events(reply.iter_lines()):
            if name == "delta":
                break

    def cancelled() -> set[tuple[str, str]]:
        found = simulated.mesh.spans()
        traces = {s.trace_id for s in found if s.attributes.get("citemesh.request_id") == request}
        return {
            (span.service.removeprefix("citemesh-"), span.name.rpartition("/")[2].split()[0])
            for span in found
            if span.trace_id in traces and span.attributes.get("citemesh.cancelled")
        }

    # The gateway's span is the route's, then both sides of each hop, and the provider's call.
    expected = {
        ("gateway", "answers"),
        ("gateway", "Answer"),
        ("generation", "Answer"),
        ("generation", "FilterOutput"),
        ("guardrail", "FilterOutput"),
        ("generation", "chat"),
    }
    wait_until(lambda: expected <= cancelled(), 60, "every hop says that it was cancelled")

    def line() -> list[str]:
        found = simulated.mesh.log("gateway").splitlines()
        return [each for each in found if request in each and '"request"' in each]

    wait_until(lambda: bool(line()), 30, "the request has its line")
    assert json.loads(line()[0])["reason"] == "CLIENT_GONE"


def test_the_trace_of_an_answer_shows_what_providers_did(simulated: Simulated) -> None:
    simulated.providers.fault("overloaded", provider="gemini", operation="generate")
    answer = simulated.ask()
    assert answer["provider"] == "anthropic"

    def chats() -> dict[str, Any]:
        return {
            span.attributes["gen_ai.provider.name"]: span
            for span in simulated.mesh.spans()
            if span.trace_id == answer["trace_id"] and span.name.startswith("chat ")
        }

    wait_until(lambda: len(chats()) == 2, 60, "both calls have a span")
    failed, worked = chats()["gcp.gemini"], chats()["anthropic"]
    assert failed.failed
    assert failed.attributes["error.type"] == "overloaded"
    assert not worked.failed
    assert "first_token" in worked.moments
    assert int(worked.attributes["gen_ai.usage.output_tokens"]) > 0
    assert "gen_ai.input.messages" not in worked.attributes


def test_the_providers_of_a_simulated_mesh_can_be_checked(simulated: Simulated) -> None:
    simulated.providers.fault("key_leaked", provider="anthropic")
    check = [sys.executable, "-m", "meshkit.cli", "providers", "check", "--json"]
    done = subprocess.run(
        [*check, "--data", str(simulated.mesh.data.root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = {(f["provider"], f["use"]): f for f in json.loads(done.stdout)}
    assert [found["mesh", use]["works"] for use in ("embedding", "rerank")] == [True, True]
    assert found["gemini", "generation"]["works"]
    assert found["gemini", "embedding"]["dimensions"] == 3072
    assert found["anthropic", "generation"]["reason"] == "PROVIDER_KEY_REJECTED"
    # One that is to be used does not work.
    assert done.returncode == 1
    assert "anthropic (generation)" in done.stderr


def test_no_key_and_no_text_of_a_document_is_in_a_log(simulated: Simulated) -> None:
    simulated.providers.fault("server_error")
    simulated.ask()
    for log in simulated.mesh.data.logs.glob("*.log"):
        text = log.read_text(errors="replace")
        assert "calendar year" not in text, log
        assert "x-goog-api-key" not in text, log


def test_the_active_space_is_switched_from_the_command_line_and_back(simulated: Simulated) -> None:
    active, standby = SPACES.split(",")

    def reindex(*options: str) -> str:
        command = [sys.executable, "-m", "meshkit.cli", "reindex", *options]
        done = subprocess.run(
            [*command, "--data", str(simulated.mesh.data.root)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for space, other in ((standby, active), (active, standby)):
        assert f"{space} is the active space now" in reindex("--space", space, "--switch")
        shown = {each["space"]: each for each in json.loads(reindex("--status", "--json"))}
        assert [(shown[name]["state"], shown[name]["pending"]) for name in (space, other)] == [
            ("active", 0),
            ("standby", 0),
        ]
        found = simulated.search()
        assert found["degraded"] == []
        assert found["hits"][0]["signals"]["dense_rank"] == 1
