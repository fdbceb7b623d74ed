"""What `citemesh eval` reads, counts and compares, without a mesh."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.cli import beir, evaluate_answers, metrics, questions
from meshkit.cli.evaluate_answers import Answered
from meshkit.cli.evaluate_corpus import ranking
from meshkit.cli.evaluate_queries import Asked, Measured, under_load
from meshkit.cli.questions import Question, QuestionSet

IDS = st.lists(st.sampled_from("abcdefghij"), unique=True)
JUDGED = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 3), min_size=1)


def test_metrics_agree_with_a_calculation_by_hand() -> None:
    judged = {"a": 2, "b": 1, "z": 1}
    ranked = ["x", "a", "b"]
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics.ndcg(ranked, judged, 10) == pytest.approx(gained / ideal)
    assert metrics.recall(ranked, judged, 10) == pytest.approx(2 / 3)
    assert metrics.recall(ranked, judged, 2) == pytest.approx(1 / 3)
    assert metrics.reciprocal_rank(ranked, judged) == 0.5
    assert metrics.percentile([1, 2, 3, 4], 0.5) == 2.5


@given(IDS, JUDGED)
def test_metrics_lie_between_nothing_and_all(ranked: list[str], judged: dict[str, int]) -> None:
    for value in (
        metrics.ndcg(ranked, judged, 10),
        metrics.recall(ranked, judged, 10),
        metrics.reciprocal_rank(ranked, judged),
    ):
        assert 0 <= value <= 1


@given(JUDGED)
def test_the_ideal_order_is_worth_one(judged: dict[str, int]) -> None:
    ranked = sorted(judged, key=lambda name: -judged[name])
    expected = 1.0 if any(judged.values()) else 0.0
    assert metrics.ndcg(ranked, judged, 10) == pytest.approx(expected)


def write_dataset(directory: Path) -> None:
    (directory / "qrels").mkdir()
    corpus = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}]
    queries = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "not judged"}]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        text = "\n".join(json.dumps(line) for line in lines)
        (directory / f"{name}.jsonl").write_text(text + "\n")
    (directory / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")


def test_a_data_set_is_read_with_only_its_judged_queries(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    dataset = beir.load(tmp_path)
    assert [entry.as_file() for entry in dataset.corpus] == [b"T\n\none\n", b"two\n"]
    assert dataset.queries == {"q1": "first?"}
    assert dataset.relevance == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("corpus.jsonl", None, "There is no"),
        ("corpus.jsonl", "not json\n", "not made of JSON lines"),
        ("queries.jsonl", '{"_id": "q1"}\n', "lacks"),
        ("qrels/test.tsv", "a\tb\tscore\nq1\td1\n", "is not query, document, score"),
        ("qrels/test.tsv", "a\tb\tscore\nq9\td1\t1\n", "has a judgement"),
    ],
)
def test_a_broken_data_set_is_refused_with_the_file_named(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    write_dataset(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(beir.DatasetInvalid, match=sentence):
        beir.load(tmp_path)


def test_a_flat_copy_with_a_split_of_its_own_is_read_too(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "qrels" / "test.tsv").rename(tmp_path / "qrels.tsv")
    (tmp_path / "qrels.train.tsv").write_text("query-id\tcorpus-id\tscore\nt1\td2\t1\n")
    (tmp_path / "queries.train.jsonl").write_text('{"_id": "t1", "text": "to learn from"}\n')
    assert beir.load(tmp_path).queries == {"q1": "first?"}
    train = beir.load(tmp_path, "train")
    assert train.queries == {"t1": "to learn from"}
    assert train.relevance == {"t1": {"d2": 1}}


def measured(*asked: tuple[str, list[str], bool]) -> Measured:
    return Measured([Asked(q, [], ranked, 1.0, degraded) for q, ranked, degraded in asked], 1.0)


def test_only_queries_degraded_in_neither_run_are_compared_under_load(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    dataset = beir.load(tmp_path)
    dataset.relevance["q2"] = {"d2": 1}
    rest = measured(("q1", ["d1"], False), ("q2", ["d2"], False))
    load = measured(("q1", ["d1"], False), ("q2", [], True))
    compared = under_load(dataset, rest, load)
    assert compared["undegraded_queries"] == 1
    assert compared["same_quality"] is True
    worse = measured(("q1", ["d2", "d1"], False), ("q2", [], True))
    compared = under_load(dataset, rest, worse)
    assert compared["ndcg@10_at_rest"] == 1.0
    assert compared["ndcg@10_under_load"] == 0.6309
    assert compared["same_quality"] is False


def test_passages_of_one_document_count_once_in_a_ranking() -> None:
    hits = [{"document_id": name} for name in ("doc_2", "doc_1", "doc_2", "doc_elsewhere")]
    assert ranking(hits, {"doc_1": ["a"], "doc_2": ["b", "c"]}) == ["b", "c", "a"]


def answered(question: Question, **given: Any) -> Answered:
    found: dict[str, Any] = {
        "text": "It was built in 1957. [1]",
        "confidence": "grounded",
        "sources": frozenset({"d1"}),
        "pages": frozenset({("d1", 3)}),
        "citations": 1,
        "supported": 1,
        "milliseconds": 5.0,
        "degraded": False,
    }
    return Answered(question, **(found | given))


def question(name: str, *, answerable: bool = True, **known: Any) -> Question:
    facts: dict[str, Any] = {"sources": frozenset({"d1"}), "answers": (), "pages": {}}
    return Question(name, f"{name}?", answerable, **(facts | known))


SILENT: dict[str, Any] = {
    "text": "I could not find this in the documents.",
    "confidence": "ungrounded",
    "sources": frozenset(),
    "pages": frozenset(),
    "citations": 0,
    "supported": 0,
}


def test_answers_are_counted_by_what_was_known_of_them() -> None:
    figures = evaluate_answers.figures(
        [
            answered(question("right", answers=("1957",), pages={"d1": frozenset({3})})),
            answered(question("wrong", answers=("1958",), pages={"d1": frozenset({4})})),
            answered(question("half", sources=frozenset({"d1", "d2"})), confidence="verified"),
            answered(question("lost"), **SILENT),
            answered(question("foreign", answerable=False), **SILENT),
            answered(question("invented", answerable=False), supported=0),
        ],
        2.0,
    )
    assert figures["answered_of_answerable"] == 0.75
    assert figures["not_answered_of_unanswerable"] == 0.5
    assert (figures["abstention_precision"], figures["abstention_recall"]) == (0.5, 0.5)
    assert figures["right_wording"] == 0.5
    assert (figures["any_source_cited"], figures["every_source_cited"]) == (0.75, 0.5)
    assert figures["exact_page_hit"] == 0.5
    assert figures["citation_support"] == 0.75
    assert figures["confidence"] == {"grounded": 3, "ungrounded": 2, "verified": 1}
    assert figures["right_by_confidence"] == {"grounded": 0.3333, "verified": 1.0}
    assert figures["per_s"] == 3.0


def test_a_sample_of_questions_is_spread_over_all_of_them() -> None:
    asked = QuestionSet("set", (), [question(str(number)) for number in range(10)])
    assert [one.id for one in asked.sample(3).questions] == ["0", "3", "6"]
    assert asked.sample(0) is asked.sample(20) is asked


def test_questions_about_files_name_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    (tmp_path / "pdfs" / "a.txt").write_text("one")
    (tmp_path / "questions.jsonl").write_text('{"question": "?", "docs": ["a.txt"]}\n')
    [asked] = questions.load(tmp_path).questions
    assert (asked.id, asked.answerable, asked.sources) == ("1", True, {"a.txt"})
    (tmp_path / "questions.jsonl").write_text('{"question": "?", "docs": ["b.txt"]}\n')
    with pytest.raises(beir.DatasetInvalid, match=r"names b\.txt"):
        questions.load(tmp_path)
