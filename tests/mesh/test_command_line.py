"""The command line against a real mesh, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh.conftest import RunningMesh

pytestmark = pytest.mark.mesh


def citemesh(
    mesh: RunningMesh, *arguments: str, key: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CITEMESH_")
    }
    if key:
        environment["CITEMESH_API_KEY"] = key
    done = subprocess.run(
        [sys.executable, "-m", "meshkit.cli", *arguments, "--data", str(mesh.data.root)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def library(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was ingested."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "tides.txt").write_text("At Skerrow the spring tide rises 11 metres in six hours.\n")
    (folder / "bees.md").write_text("# Bees\n\nThe abbey keeps 42 hives of black bees.\n")
    citemesh(mesh, "ingest", str(folder), "--wait", "--label", "shelf=command-line")
    return folder


@pytest.mark.usefixtures("library")
def test_an_answer_is_printed_with_its_citation(mesh: RunningMesh) -> None:
    shown = citemesh(mesh, "ask", "How far does the spring tide rise at Skerrow?", "--timings")
    assert "11 metres" in shown.stdout
    assert "tides.txt" in shown.stdout
    assert "confidence: " in shown.stdout
    whole = citemesh(mesh, "ask", "How many hives does the abbey keep?", "--json")
    answer = json.loads(whole.stdout)
    assert "42" in answer["answer"]
    assert answer["citations"]


@pytest.mark.usefixtures("library")
def test_a_search_can_be_restricted_to_a_label_and_read_by_a_program(mesh: RunningMesh) -> None:
    query = ("search", "spring tide", "--json", "--mode", "lexical")
    found = json.loads(citemesh(mesh, *query, "--label", "shelf=command-line").stdout)
    assert found["hits"][0]["title"] == "tides.txt"
    assert json.loads(citemesh(mesh, *query, "--label", "shelf=none").stdout)["hits"] == []
    assert "tides.txt" in citemesh(mesh, "search", "spring tide").stdout


@pytest.mark.usefixtures("library")
def test_documents_are_listed_shown_reprocessed_and_deleted(mesh: RunningMesh) -> None:
    listed = citemesh(mesh, "documents", "list", "--json", "--label", "shelf=command-line")
    by_title = {document["title"]: document for document in json.loads(listed.stdout)}
    assert {document["state"] for document in by_title.values()} == {"ready"}
    bees = next(d["id"] for title, d in by_title.items() if title != "tides.txt")
    assert bees in citemesh(mesh, "documents", "show", bees).stdout
    assert bees in citemesh(mesh, "documents", "reprocess", bees).stdout
    citemesh(mesh, "documents", "delete", bees)
    gone = citemesh(mesh, "documents", "show", bees, code=1)
    assert "[DOCUMENT_NOT_FOUND, request req_" in gone.stderr


def test_a_folder_with_a_bad_file_ends_with_1_and_a_table_of_reasons(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    (tmp_path / "good.txt").write_text("The bridge at Tarn was built in 1887.\n")
    (tmp_path / "empty.txt").touch()
    done = citemesh(mesh, "ingest", str(tmp_path), "--wait", code=1)
    assert "1 of 2 documents ready" in done.stdout
    assert "empty.txt" in done.stdout
    assert "FILE_EMPTY" in done.stdout
    assert "1 of 2 documents failed. [DOCUMENTS_FAILED]" in done.stderr


def test_a_wrong_key_is_refused_with_reason_and_request_id(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    done = citemesh(mesh, "search", "x", key="ck_wrong", code=1)
    assert "[KEY_INVALID, request req_" in done.stderr
    (tmp_path / "a.txt").write_text("x")
    done = citemesh(mesh, "ingest", str(tmp_path), key="ck_wrong", code=1)
    assert "[KEY_INVALID, request req_" in done.stderr


def test_a_project_with_a_key_is_made_exported_and_purged(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    made = json.loads(citemesh(mesh, "projects", "create", "cli-test", "--json").stdout)
    project = made["id"]
    chosen = ("--chunk-tokens", "64", "--fusion", "min_max", "--dense-weight", "2")
    citemesh(mesh, "projects", "set", project, *chosen)
    kept = citemesh(mesh, "projects", "set", project, "--reset", "dense_weight").stdout
    assert json.loads(kept) == {"chunk_tokens": 64, "fusion": "min_max"}
    key = citemesh(
        mesh, "keys", "create", "cli", "--project", project, "--scope", "read", "--scope", "write"
    ).stdout.strip()
    (tmp_path / "moor.txt").write_text("The moor at Eskdale burned for nine days.\n")
    citemesh(mesh, "ingest", str(tmp_path / "moor.txt"), "--wait", key=key)
    assert "moor.txt" in citemesh(mesh, "search", "moor", key=key).stdout
    out = tmp_path / "export.jsonl"
    citemesh(mesh, "projects", "export", project, "--out", str(out))
    kinds = {json.loads(line)["kind"] for line in out.read_text().splitlines()}
    assert kinds == {"document", "chunk"}
    listed = json.loads(citemesh(mesh, "keys", "list", "--project", project, "--json").stdout)
    citemesh(mesh, "keys", "revoke", listed[0]["id"])
    citemesh(mesh, "search", "moor", key=key, code=1)
    receipt = json.loads(citemesh(mesh, "projects", "purge", project, "--yes", "--json").stdout)
    assert receipt["documents_removed"] == 1
    assert project not in citemesh(mesh, "projects", "list").stdout


@pytest.mark.usefixtures("library")
def test_the_lexical_index_can_be_rebuilt(mesh: RunningMesh) -> None:
    assert "rebuilt" in citemesh(mesh, "reindex", "--lexical").stdout
    space = "local/bge-small-en-v1.5@384"
    assert "rebuilt" in citemesh(mesh, "reindex", "--space", space).stdout
    compared = json.loads(citemesh(mesh, "reconcile", "--json").stdout)
    assert compared["versions"] >= 1
    assert (compared["different"], compared["incomplete"]) == (0, [])
    assert "tides.txt" in citemesh(mesh, "search", "Skerrow", "--mode", "lexical").stdout


def test_the_local_providers_are_said_to_work_because_they_answered(mesh: RunningMesh) -> None:
    found = json.loads(citemesh(mesh, "providers", "check", "--json").stdout)
    assert [f["works"] for f in found if f["provider"] == "local"] == [True, True]


def test_an_evaluation_prints_its_figures_as_its_last_line(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    dataset = tmp_path / "harbours"
    (dataset / "qrels").mkdir(parents=True)
    corpus = {
        "d1": "The harbour of Lunde freezes in January and is kept open by two tugs.",
        "d2": "Goats on the island of Rhum are counted every spring by volunteers.",
        "d3": "A sextant measures the angle between the horizon and a star.",
    }
    lines = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in corpus.items()]
    (dataset / "corpus.jsonl").write_text("\n".join(lines))
    queries = {"q1": "frozen harbour", "q2": "measuring angles to stars"}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (dataset / "queries.jsonl").write_text("\n".join(lines))
    (dataset / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td3\t1\n"
    )
    out = tmp_path / "figures.json"
    done = citemesh(mesh, "eval", str(dataset), "--json", str(out))
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures == json.loads(out.read_text())
    assert figures["recall@10"] == 1.0
    assert figures["ndcg@10"] > 0.8
    assert figures["queries"] == 2
    assert list(figures["modes"]) == ["lexical", "dense", "hybrid", "hybrid+rerank"]
    assert figures["mode"] == "hybrid+rerank"
    assert figures["modes"]["lexical"]["recall@10"] == 1.0

    at_once = citemesh(mesh, "eval", str(dataset), "--mode", "hybrid", "--clients", "4")
    load = json.loads(at_once.stdout.splitlines()[-1])["under_load"]
    assert load["same_quality"] is True
    assert load["degraded_share"] == 0.0

    projects = json.loads(citemesh(mesh, "projects", "list", "--json").stdout)
    assert [project["name"] for project in projects].count("eval-harbours") == 1
    assert "Lunde" not in citemesh(mesh, "search", "harbour of Lunde freezes").stdout


def test_an_evaluation_asks_questions_and_counts_what_was_not_answered(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    dataset = tmp_path / "lighthouse"
    (dataset / "documents").mkdir(parents=True)
    (dataset / "documents" / "light.md").write_text(
        "The lighthouse of Skagsudde was built in 1957. Its lamp is changed every four years."
    )
    questions = [
        {
            "question": "When was the lighthouse of Skagsudde built?",
            "docs": ["light.md"],
            "answers": ["1957"],
        },
        {"question": "Which poet won the prize in Peru?", "answerable": False},
    ]
    lines = "\n".join(json.dumps(question) for question in questions)
    (dataset / "questions.jsonl").write_text(lines)
    figures = json.loads(citemesh(mesh, "eval", str(dataset)).stdout.splitlines()[-1])
    assert figures["mode"] == "answers"
    assert (figures["questions"], figures["answerable"]) == (2, 1)
    assert figures["answered_of_answerable"] == 1.0
    assert (figures["abstention_precision"], figures["abstention_recall"]) == (1.0, 1.0)
    assert figures["right_wording"] == 1.0
    assert figures["any_source_cited"] == figures["every_source_cited"] == 1.0
    assert figures["citation_support"] == 1.0
    assert figures["exact_page_hit"] is None
