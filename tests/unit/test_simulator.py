"""The simulator's pure parts: vectors, texts, faults, quotas, pace."""

from __future__ import annotations

import random

import numpy as np
import pytest

from loadtest.simulator import embeddings, writing
from loadtest.simulator.call import Call, tokens
from loadtest.simulator.faults import FaultKind, Faults
from loadtest.simulator.pace import Pace
from loadtest.simulator.quotas import Quota, Quotas

CALL = Call("gemini", "generate", "gemini-3.8-flash", "key", 100)
QUESTION = "How many days of vacation do employees have?"
ANSWER = "Every employee has 26 days of paid vacation in a year."
OTHER = "The impeller of the pump is replaced after 4,000 hours of operation."


def near(one: str, other: str, dimensions: int = 3072) -> float:
    left = np.asarray(embeddings.vector(one, "t", dimensions))
    right = np.asarray(embeddings.vector(other, "t", dimensions))
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.mark.parametrize("dimensions", [3072, 768, 256])
def test_near_texts_are_near_at_every_length(dimensions: int) -> None:
    assert near(QUESTION, ANSWER, dimensions) > near(QUESTION, OTHER, dimensions) + 0.15
    assert near(ANSWER, ANSWER, dimensions) == pytest.approx(1.0)


def test_vectors_are_the_same_on_every_machine() -> None:
    found = embeddings.vector("a pump", "RETRIEVAL_QUERY", 768)
    assert len(found) == 768
    assert found == embeddings.vector("a pump", "RETRIEVAL_QUERY", 768)
    assert [found[5], found[27]] == pytest.approx([-0.03532168, -0.00618127], abs=1e-7)
    assert found[:5] == [0.0] * 5


def test_only_a_full_vector_has_length_one_until_it_is_normalised() -> None:
    assert np.linalg.norm(embeddings.vector(ANSWER, "t", 3072)) == pytest.approx(1.0, abs=1e-6)
    short = embeddings.vector(ANSWER, "t", 768)
    assert np.linalg.norm(short) < 0.9
    assert np.linalg.norm(embeddings.normalised(short)) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", " ", "?", "名前", "🦊", "the of and"])
def test_every_text_has_a_vector(text: str) -> None:
    assert np.linalg.norm(embeddings.vector(text, "t", 768)) > 0


PROMPT = (
    f'<source id="1" document="a">\n{OTHER}\n</source>\n<source id="2" document="b">\n{ANSWER} It '
    "grows with the years.\n</source>\n<question>\n{}\n</question>"
)


def test_an_answer_is_a_sentence_of_the_sources_with_its_marker() -> None:
    text, cut = writing.answer("", PROMPT.format(QUESTION), 500)
    assert text.startswith(f"{ANSWER} [2]")
    assert not cut


def test_what_the_sources_do_not_say_is_refused_as_the_instructions_want() -> None:
    system = 'When they do not answer, reply with exactly: "Not in here."'
    text, _ = writing.answer(system, PROMPT.format("Who won the football world cup?"), 500)
    assert text == "Not in here."


def test_pieces_are_the_text() -> None:
    for text in (ANSWER, "", "a", "  two  spaces  ", "x" * 100, "名前\n\n[1]"):
        assert "".join(writing.pieces(text)) == text


def test_relevance_is_shared_rare_words() -> None:
    best, worst = writing.relevance(QUESTION, [ANSWER, OTHER])
    assert 0 < worst < 0.5 < best < 1


def test_a_fault_hits_the_calls_it_names_as_often_as_it_says() -> None:
    faults = Faults()
    faults.add({"kind": "overloaded", "provider": "gemini", "times": 2}, now=0)
    assert faults.pick(Call("cohere", "generate", "m", "k", 1), 0) is None
    assert [faults.pick(CALL, 0) is not None for _ in range(4)] == [True, True, False, False]


def test_a_fault_keeps_its_schedule() -> None:
    faults = Faults()
    faults.add({"kind": "overloaded", "begins": 10, "lasts": 5}, now=100)
    hit = [now for now in range(100, 130) if faults.pick(CALL, now)]
    assert hit == [110, 111, 112, 113, 114]


def test_a_share_of_calls_is_hit_and_the_same_ones_every_time() -> None:
    def hits(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add({"kind": "overloaded", "probability": 0.1}, now=0)
        return [faults.pick(CALL, 0) is not None for _ in range(2000)]

    assert hits(1) == hits(1)
    assert 150 < sum(hits(1)) < 250


def test_faults_of_vectors_are_for_embeddings_and_those_of_handshakes_for_handshakes() -> None:
    faults = Faults()
    faults.add({"kind": "wrong_dimension"}, now=0)
    faults.add({"kind": "tls"}, now=0)
    assert faults.pick(CALL, 0) is None
    found = faults.pick(CALL, 0, handshake=True)
    assert found is not None
    assert found.kind is FaultKind.TLS


@pytest.mark.parametrize("values", [{}, {"kind": "no such"}, {"kind": "hang", "minutes": 3}])
def test_a_fault_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind|no such|minutes"):
        Faults().add(values, now=0)


def test_a_quota_is_full_again_with_the_next_minute_and_day() -> None:
    quotas = Quotas()
    quotas.quotas = [Quota("gemini", requests_per_minute=2, requests_per_day=3)]
    assert quotas.take(CALL, 10.0) is None
    assert quotas.take(CALL, 11.0) is None
    refused = quotas.take(CALL, 12.0)
    assert refused is not None
    assert (refused.daily, refused.metric, refused.retry_after) == (False, "requests", 48.0)
    assert quotas.take(CALL, 61.0) is None
    refused = quotas.take(CALL, 121.0)
    assert refused is not None
    assert refused.daily
    assert quotas.take(CALL, 86_401.0) is None
    # Somebody else's key has a quota of its own.
    assert quotas.take(Call("gemini", "generate", CALL.model, "other", 1), 121.0) is None


def test_tokens_are_counted_too() -> None:
    quotas = Quotas()
    quotas.quotas = [Quota(tokens_per_minute=150)]
    assert quotas.take(CALL, 0) is None
    refused = quotas.take(CALL, 1)
    assert refused is not None
    assert refused.metric == "tokens"
    assert tokens("twelve chars") == 3


def test_a_pace_has_its_median_and_its_spread() -> None:
    chance = random.Random(7)
    delays = sorted(Pace(100, spread=0.25).delay(chance) for _ in range(2001))
    assert delays[1000] == pytest.approx(0.1, rel=0.05)
    assert delays[1900] == pytest.approx(0.15, rel=0.1)
    assert Pace().delay(chance) == 0.0
    gaps = [Pace(tokens_per_second=100).gap(chance) for _ in range(2000)]
    assert sum(gaps) / len(gaps) == pytest.approx(0.0103, rel=0.05)
