"""The parts of the command line that hold without a mesh."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from loadtest.simulator.running import RunningSimulator
from meshkit.cli import load
from meshkit.cli.ask import print_stream
from meshkit.cli.client import Target, raise_for_problem
from meshkit.cli.failure import CommandFailed
from meshkit.cli.ingest import find_files
from meshkit.cli.options import parse_labels
from meshkit.cli.output import clean, shorten
from meshkit.cli.progress import STAGES, completion
from meshkit.cli.providers import api_findings, mesh_findings, without_key
from meshkit.cli.sse import Event, events
from meshkit.cli.upload import Upload

# -- files and labels ----------------------------------------------------------------------------


def test_a_folder_stands_for_every_file_below_it_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.pdf", "sub/b.md", ".hidden", ".git/config", "sub/.DS_Store"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert find_files([str(tmp_path)]) == [tmp_path / "a.pdf", tmp_path / "sub" / "b.md"]


def test_globs_and_names_may_overlap_and_each_file_counts_once(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([str(tmp_path / "*.pdf"), str(tmp_path / "b.pdf"), str(tmp_path / "c.txt")])
    assert [path.name for path in found] == ["a.pdf", "b.pdf", "c.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "report [final].txt").touch()
    assert find_files([str(tmp_path / "report [final].txt")])[0].name == "report [final].txt"


def test_a_path_that_names_nothing_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="names no file"):
        find_files([str(tmp_path / "*.pdf")])


def test_labels_are_pairs() -> None:
    assert parse_labels(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    with pytest.raises(typer.BadParameter):
        parse_labels(["novalue"])
    with pytest.raises(typer.BadParameter):
        parse_labels(["=x"])


# -- which mesh, which key -----------------------------------------------------------------------


def test_the_key_file_is_never_sent_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITEMESH_API_KEY", raising=False)
    (tmp_path / "api_key").write_text("ck_local\n")
    assert Target.find("http://127.0.0.1:9/", tmp_path) == Target("http://127.0.0.1:9", "ck_local")
    with pytest.raises(CommandFailed, match="API_KEY_MISSING"):
        Target.find("https://mesh.example.com", tmp_path)
    with pytest.raises(CommandFailed, match="API_KEY_MISSING"):
        Target.find("http://127.0.0.1.example.com", tmp_path)


def test_the_environment_s_key_wins_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITEMESH_API_KEY", "ck_given")
    (tmp_path / "api_key").write_text("ck_local\n")
    target = Target.find(None, tmp_path)
    assert target.key == "ck_given"
    assert "ck_given" not in repr(target)


def test_an_error_of_the_mesh_keeps_its_reason_and_request_id() -> None:
    import httpx

    problem = {"detail": "No.", "reason": "DOCUMENT_NOT_FOUND", "request_id": "req_1"}
    with pytest.raises(CommandFailed) as caught:
        raise_for_problem(httpx.Response(404, json=problem))
    assert str(caught.value) == "No. [DOCUMENT_NOT_FOUND, request req_1]"
    with pytest.raises(CommandFailed, match=r"answered 502.*HTTP_502"):
        raise_for_problem(httpx.Response(502, text="<html>bad gateway</html>"))


# -- events --------------------------------------------------------------------------------------


def test_events_are_read_as_the_standard_says() -> None:
    lines = [": keep-alive", "", "event: delta", 'data: {"text": "a"}', "", "data: x", "data:y", ""]
    found = list(events([*lines, "event: cut", "data: never ended"]))
    assert found == [Event("delta", '{"text": "a"}'), Event("message", "x\ny")]


def event(name: str, **data: Any) -> Event:
    return Event(name, json.dumps(data))


def test_an_answer_is_printed_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    done = print_stream(
        [
            event("delta", text="Thirty "),
            event("delta", text="days."),
            event("done", answer="Thirty days."),
        ]
    )
    assert done["answer"] == "Thirty days."
    assert capsys.readouterr().out == "Thirty days.\n"


def test_an_answer_that_was_changed_by_its_checks_is_printed_again_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_stream(
        [
            event("delta", text="Call +49 30 123."),
            event("retract", start=5, end=15, replacement="[phone]"),
            event("done", answer="Call [phone]."),
        ]
    )
    shown = capsys.readouterr()
    assert shown.out.endswith("Call [phone].\n")
    assert "changed" in shown.err


def test_an_answer_that_another_provider_goes_on_with_is_told_and_printed_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    switched = {"from_provider": "gemini", "to_provider": "anthropic", "reason": "PROVIDER_FAILED"}
    print_stream(
        [
            event("delta", text="26 days. [1] And af"),
            event("retract", start=12, end=19, replacement="", reason="interrupted"),
            event("provider_switched", restarted=False, **switched),
            event("delta", text=" It is 30 later. [1]"),
            event("done", answer="26 days. [1] It is 30 later. [1]"),
        ]
    )
    shown = capsys.readouterr()
    assert shown.out.endswith("\n26 days. [1] It is 30 later. [1]\n")
    assert "anthropic goes on: PROVIDER_FAILED" in shown.err
    print_stream(
        [
            event("delta", text="26 da"),
            event("provider_switched", restarted=True, **switched),
            event("delta", text="It is 26 days. [1]"),
            event("done", answer="It is 26 days. [1]"),
        ]
    )
    shown = capsys.readouterr()
    assert shown.out == "26 da\nIt is 26 days. [1]\n"
    assert "anthropic starts over" in shown.err


def test_an_answer_that_fails_or_breaks_off_is_a_failure() -> None:
    with pytest.raises(CommandFailed, match="BUDGET_EXHAUSTED, request req_1"):
        print_stream([event("error", reason="BUDGET_EXHAUSTED", detail="No.", request_id="req_1")])
    with pytest.raises(CommandFailed, match="ANSWER_INCOMPLETE"):
        print_stream([event("delta", text="Thir")])


def test_a_document_cannot_drive_the_terminal() -> None:
    assert clean("a\x1b]0;owned\x07b\x9b2J\tc\nd") == "a]0;ownedb2J\tc\nd"
    assert shorten("one\n two   three", 9) == "one two…"


# -- progress ------------------------------------------------------------------------------------


def test_progress_only_grows_from_stage_to_stage() -> None:
    def at(stage: str, done: int, total: int) -> float:
        state = {"state": "processing", "stage": stage, "progress": {"done": done, "total": total}}
        return completion(Upload("x", document=state))

    values = [at(stage, done, 4) for stage in STAGES for done in (0, 2, 4)]
    assert values == sorted(values)
    assert 0 == values[0] < values[-1] <= 1
    assert completion(Upload("x")) == 0
    assert completion(Upload("x", document={"state": "ready"})) == 1


def test_what_went_wrong_with_a_document_is_named() -> None:
    failed = {"state": "failed", "error": {"reason": "FILE_ENCRYPTED", "detail": "Locked."}}
    assert Upload("x", document=failed).reason() == ("FILE_ENCRYPTED", "Locked.")
    refused = Upload("x", failure=CommandFailed("Too big.", "FILE_TOO_LARGE", "req_1"))
    assert refused.reason() == ("FILE_TOO_LARGE", "Too big. (request req_1)")
    assert refused.is_over
    assert Upload("x", document={"state": "ready"}).reason() == ("", "")


# -- providers -----------------------------------------------------------------------------------


def test_a_local_model_that_did_not_answer_is_said_not_to_work() -> None:
    hit = {"chunk_id": "c"}
    good = mesh_findings({"hits": [hit], "degraded": [], "timings_ms": {"embed": 3.5}}, "local")
    assert [finding.works for finding in good] == [True, True]
    missing = {"hits": [hit], "degraded": ["dense", "rerank"], "timings_ms": {}}
    assert [finding.works for finding in mesh_findings(missing, "local")] == [False, False]


def test_a_provider_without_a_key_is_named_with_its_variable() -> None:
    [left] = without_key({"COHERE_API_KEY": "x", "ANTHROPIC_API_KEY": "y"}, {"cohere"})
    assert (left.provider, left.works) == ("gemini", False)
    assert "GEMINI_API_KEY is not set" in left.remark


def test_each_service_tries_its_own_adapters(simulator: RunningSimulator) -> None:
    simulator.fault("key_leaked", provider="gemini", operation="generate")
    simulator.fault("rate_limited", provider="cohere", operation="rerank", retry_after=9)
    simulator.quota(provider="anthropic", requests_per_minute=50, tokens_per_minute=9000)
    environment = {**os.environ, **simulator.environment()}
    environment["CITEMESH_EMBEDDING_SPACES"] = "gemini/gemini-embedding-001@768"
    findings = api_findings(environment)
    assert [(f.provider, f.use, f.works) for f in findings] == [
        ("gemini", "embedding", True),
        ("cohere", "embedding", True),
        ("cohere", "rerank", False),
        ("gemini", "generation", False),
        ("anthropic", "generation", True),
        ("cohere", "generation", True),
    ]
    # The length that is set, and the model's own where nothing is.
    assert [f.dimensions for f in findings[:2]] == [768, 2048]
    assert "again in 9 s" in findings[2].remark
    assert findings[3].reason == "PROVIDER_KEY_REJECTED"
    assert re.search(r"left this minute: 49 requests and 89\d\d tokens", findings[4].remark)
    assert all(f.ms and f.cost_micro_usd for f in findings if f.works)
    assert "test-key" not in repr(findings)


# -- the program ---------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith("CITEMESH_")}
    return subprocess.run(
        [sys.executable, "-m", "meshkit.cli", *arguments],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("ask",),
        ("ingest", "missing.pdf"),
        ("search", "x", "--mode", "sparse"),
        ("up", "--port", "70000"),
        ("migrate",),
        ("reindex",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ask", "x"), "API_KEY_MISSING"),
        (("status",), "MESH_NOT_RUNNING"),
        (("eval", "nowhere"), "DATASET_INVALID"),
    ],
)
def test_a_failure_ends_with_1_a_sentence_and_its_reason(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"[{reason}]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mesh_that_is_not_there_is_said_not_to_be_there(tmp_path: Path) -> None:
    done = run("search", "x", "--url", "http://127.0.0.1:9", cwd=tmp_path, CITEMESH_API_KEY="ck_x")
    assert done.returncode == 1
    assert "[MESH_UNREACHABLE]" in done.stderr
    assert "ck_x" not in done.stderr + done.stdout


def test_down_without_a_mesh_is_no_failure(tmp_path: Path) -> None:
    done = run("down", cwd=tmp_path)
    assert done.returncode == 0
    assert "No mesh runs" in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from meshkit.cli import app\n"
        "heavy = {'httpx', 'grpc', 'rich', 'pydantic', 'sqlalchemy', 'asyncpg', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# -- load ----------------------------------------------------------------------------------------


def test_the_load_scenarios_are_those_of_the_tree_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "meshkit.cli", "load", "nothing-like-this"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "noisy_neighbour" in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_the_tree_load_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "TREE", tmp_path)
    with pytest.raises(CommandFailed, match="make load SCENARIO") as caught:
        load.load("peak")
    assert caught.value.reason == "LOADTEST_MISSING"


def test_load_names_the_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None if name == "locust" else object())
    with pytest.raises(CommandFailed, match="need locust:"):
        load.load("peak")
