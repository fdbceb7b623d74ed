"""The pure parts of answering: units, candidates, follow-ups, cache keys, confidence, pages."""

from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.project import ProjectSettings
from services.generation import calibration
from services.generation.abstention import not_found, says_not_found
from services.generation.answers import (
    CacheStatus,
    Citation,
    Done,
    Question,
    Quote,
    SearchFilter,
    Sentence,
    Sources,
)
from services.generation.cache_key import cache_key, scope_key
from services.generation.cached_answer import decode, encode
from services.generation.calibration import NOBODY, Calibration
from services.generation.candidates import candidates, coverage, flat
from services.generation.citations import locate, pages, quotes_of, supported, used_markers
from services.generation.confidence import Ballot, Checked, Confidence, Signals, Vote, judge
from services.generation.follow_up import leans_on_history, search_text
from services.generation.names import names
from services.generation.passages import Chunk, Location, Passage, units
from services.generation.rhythm import Rhythm
from services.generation.same_question import same_question


def chunk(text: str, *, document: str = "doc_1", ordinal: int = 0, **where: object) -> Chunk:
    location = replace(Location(start=0, end=len(text)), **where)  # type: ignore[arg-type]
    name = f"{document}.1.{ordinal}"
    return Chunk(name, document, 1, ordinal, "Handbook", text, location)


def passage(text: str, marker: str = "1", **kind: object) -> Passage:
    return Passage(marker, chunk(text, **kind), 1.0)  # type: ignore[arg-type]


FILING = """Three Months Ended
June 25,
2022
Products $ 63,355 $ 63,948
Total net sales 82,959 81,434

Services net sales increased during the third quarter of 2022 compared to the third quarter of
2021 due primarily to higher net sales from advertising. Apple Inc. also sold more.
• First item of a list
• Second item"""


def test_wrapped_lines_are_one_sentence_and_rows_stand_alone() -> None:
    found = [(flat(unit.of(FILING)), unit.is_row) for unit in units(FILING)]
    assert ("Total net sales 82,959 81,434", True) in found
    wrapped = (
        "Services net sales increased during the third quarter of 2022 compared to the third "
        "quarter of 2021 due primarily to higher net sales from advertising."
    )
    assert (wrapped, False) in found
    assert ("Apple Inc. also sold more.", False) in found
    assert ("• Second item", False) in found


@given(st.text(alphabet="aB. \n|1,?!。中", max_size=200))
def test_units_cover_every_character_that_is_no_space_once(text: str) -> None:
    found = units(text)
    assert all(left.end <= right.start for left, right in pairwise(found))
    assert "".join("".join(unit.of(text).split()) for unit in found) == "".join(text.split())


def test_the_sentence_that_shares_rare_words_comes_first() -> None:
    text = "The company sells phones. The company leases offices in Cork. The company was founded."
    best = candidates("Where does the company lease offices?", [passage(text)], 2)
    assert best[0].text == "The company leases offices in Cork."
    assert len(best) == 2


def test_a_sentence_two_chunks_share_is_asked_about_once() -> None:
    text = "Leave is thirty days a year."
    found = candidates("leave days", [passage(text), passage(text, "2", ordinal=1)], 10)
    assert [candidate.passage.marker for candidate in found] == ["1"]


def test_coverage_counts_the_place_of_a_sentence_too() -> None:
    [candidate] = candidates("handbook leave", [passage("Leave is thirty days.")], 5)
    assert coverage("handbook leave", candidate) == 1.0
    assert coverage("reptile leave", candidate) == 0.5


@pytest.mark.parametrize(
    "question", ["And in 2023?", "How many does it have?", "What about Nvidia?", "Why?"]
)
def test_a_question_that_leans_on_history_is_completed(question: str) -> None:
    assert leans_on_history(question)
    before = "What were Apple's total net sales?"
    assert "Apple's" in search_text(question, before)
    assert search_text(question, before).startswith(question)


def test_a_question_that_stands_alone_stays_as_it_is() -> None:
    question = "Which suppliers deliver batteries to Nvidia in Taiwan?"
    assert search_text(question, "What were Apple's net sales?") == question
    assert search_text("Why?", "") == "Why?"


KEY = {"project_id": "prj_1", "principals": ("user:a",), "corpus_epoch": 3, "model": "local/x"}


def key(text: str = "What is leave?", **changes: object) -> bytes:
    question = Question(text, filter=changes.pop("filter", SearchFilter()))  # type: ignore[arg-type]
    return cache_key(question, text, **{**KEY, **changes})  # type: ignore[arg-type]


def test_spelling_that_changes_nothing_has_the_same_key() -> None:
    assert key("What is leave?") == key("  what IS  leave ")


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "What is pay?"},
        {"project_id": "prj_2"},
        {"principals": ("user:b",)},
        {"principals": ()},
        {"corpus_epoch": 4},
        {"model": "local/y"},
        {"filter": SearchFilter(document_ids=("doc_1",))},
        {"filter": SearchFilter(labels=(("team", "hr"),))},
        {"settings": ProjectSettings(fusion="min_max")},
    ],
)
def test_whatever_an_answer_depends_on_changes_the_key(changes: dict[str, object]) -> None:
    assert key(**changes) != key()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "How many days of leave do employees get?",
            "How many leave days does an employee get?",
            True,
        ),
        ("What is the vacation policy?", "The vacation policy, what is it?", True),
        ("Wie viele Tage Urlaub gibt es?", "Wie viele Urlaubstage gibt es?", False),
        ("What grew in Q1 2022?", "What grew in Q1 2023?", False),
        ("Does it increase fibrosis?", "Does it reduce fibrosis?", False),
        ("Is the archive open?", "Is the archive not open?", False),
        ("Did Acme sue Globex?", "Did Globex sue Acme?", False),
        ("Is tea warmer than coffee?", "Is coffee warmer than tea?", False),
        ("Who leads the archive?", "Wer leitet das Archiv?", False),
    ],
)
def test_words_decide_whether_two_questions_are_one(one: str, other: str, same: bool) -> None:
    assert same_question(one, other) is same
    assert same_question(other, one) is same


def test_questions_of_another_space_are_in_another_scope() -> None:
    def scope(**changes: object) -> bytes:
        arguments: dict[str, object] = {
            "project_id": "p",
            "principals": ["user:ann"],
            "corpus_epoch": 3,
            "model": "local/m",
            "space": "local/a@2",
        }
        return scope_key(Question("Whatever?"), **(arguments | changes))  # type: ignore[arg-type]

    changed = [
        {"space": "local/b@2"},
        {"principals": ["user:bob"]},
        {"corpus_epoch": 4},
        {"project_id": "q"},
        {"settings": ProjectSettings(dense_weight=2.0)},
    ]
    assert len({scope(), *(scope(**one) for one in changed)}) == 6


BALLOT = Ballot(
    bias=1.0,
    votes={"evidence": Vote(2.0, 0.0, 4.0), "agreement": Vote(0.5, 0.5, 0.5)},
    answer=0.3,
    verified=0.9,
)
STRONG = Checked(abstained=False, groundedness=1.0, support=0.95, ballot=BALLOT)


@pytest.mark.parametrize(
    ("checked", "expected"),
    [
        (STRONG, Confidence.VERIFIED),
        (replace(STRONG, degraded=("rerank",)), Confidence.GROUNDED),
        (replace(STRONG, support=0.8), Confidence.GROUNDED),
        (replace(STRONG, support=0.2), Confidence.MIXED),
        (replace(STRONG, support=None), Confidence.GROUNDED),
        (replace(STRONG, ballot=None), Confidence.GROUNDED),
        (replace(STRONG, groundedness=0.5), Confidence.MIXED),
        (replace(STRONG, groundedness=None), Confidence.MIXED),
        (replace(STRONG, groundedness=0.0), Confidence.UNGROUNDED),
        (replace(STRONG, abstained=True), Confidence.UNGROUNDED),
    ],
)
def test_confidence_is_the_groundings_word_and_then_the_vote(
    checked: Checked, expected: Confidence
) -> None:
    assert judge(checked) is expected


LOGITS = st.floats(-30, 30)
KNOWN = st.none() | LOGITS


@given(LOGITS, LOGITS, KNOWN)
def test_better_evidence_never_lowers_the_support(
    one: float, other: float, agreement: float | None
) -> None:
    low, high = (
        BALLOT.support(Signals(evidence=value, agreement=agreement))
        for value in sorted((one, other))
    )
    assert 0 <= low <= high <= 1


@given(KNOWN)
def test_a_signal_that_is_not_known_votes_like_one_that_says_nothing(
    evidence: float | None,
) -> None:
    unknown = BALLOT.support(Signals(evidence=evidence))
    assert unknown == BALLOT.support(Signals(evidence=evidence, agreement=0.5))


def test_no_signal_counts_without_limit() -> None:
    assert BALLOT.support(Signals(evidence=12.0)) == BALLOT.support(Signals(evidence=1e6))


def calibrated(scorer: str, space: str, *, trained: bool = True) -> Calibration:
    return Calibration(scorer, space, trained, replace(BALLOT), (), "", "")


def test_models_get_the_ballot_they_were_measured_with() -> None:
    ours, alone = calibrated("local/ce", "local/a@2"), calibrated(NOBODY, "local/a@2")
    other = calibrated("local/ce", "local/a@2", trained=False)
    known = [other, alone, ours]
    found = calibration.find(known, "local/ce", "local/a@2", trained=True)
    assert found is not None
    assert found.ballot is ours.ballot
    assert (found.uses_evidence, found.uses_similarity) == (True, True)
    found = calibration.find(known, "local/ce", "local/b@2", trained=True)
    assert found is not None
    assert (found.ballot, found.uses_similarity) == (ours.ballot, False)
    found = calibration.find(known, "cohere/new", "local/a@2", trained=True)
    assert found is not None
    assert found.ballot is alone.ballot
    assert found.uses_evidence is False
    assert calibration.find([ours], "cohere/new", "local/a@2", trained=True) is None


def test_the_calibrations_that_come_along_name_their_models_and_data() -> None:
    entries = calibration.load()
    assert {(one.scorer, one.space, one.trained) for one in entries} >= {
        ("local/ms-marco-MiniLM-L-12-v2", "local/bge-small-en-v1.5@384", True),
        (NOBODY, "local/bge-small-en-v1.5@384", True),
        ("local/ms-marco-MiniLM-L-12-v2", "local/bge-small-en-v1.5@384", False),
        (NOBODY, "local/bge-small-en-v1.5@384", False),
    }
    for one in entries:
        assert one.datasets
        assert one.date
        assert one.command.startswith("python -m loadtest.calibrate")
        assert 0 < one.ballot.answer <= one.ballot.verified


PLAIN_ENTRY = """[[calibration]]
scorer = 'a'
space = ''
trained = true
bias = 0
answer = 0
verified = 1
datasets = []
date = ''
command = ''
"""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[[calibration]]\nscorer = 'a'\n", "entry 1: KeyError"),
        (
            f"{PLAIN_ENTRY}[calibration.votes]\nmood = {{ weight = 1, centre = 0, spread = 1 }}\n",
            "there is no signal mood",
        ),
    ],
)
def test_a_broken_calibration_is_refused_by_name(
    tmp_path: Path, content: str, sentence: str
) -> None:
    file = tmp_path / "calibrations.toml"
    file.write_text(content)
    with pytest.raises(calibration.CalibrationInvalid, match=sentence):
        calibration.load(file)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Did Apple or Amazon or NVIDIA sell AWS services in 2022?", "apple amazon nvidia aws"),
        (
            "How do Apple, Amazon, NVIDIA, Intel and Microsoft compare?",
            "apple amazon nvidia intel microsoft",
        ),
        ("NVIDIA's revenue and the data centers", "nvidia"),
        ("AWS revenue in Q3 2022?", "aws"),
        ("What was the Data Center revenue of Globex?", "data center globex"),
        ("What Is The Capital Of France?", ""),
        ("WHAT DOES AWS COST?", ""),
        ("Wie viele Tage Urlaub haben die Mitarbeiter von Bosch im Jahr?", ""),
        ("what did acme sell", ""),
    ],
)
def test_names_are_told_by_their_capitals_where_capitals_tell(question: str, expected: str) -> None:
    assert names(question) == frozenset(expected.split())


@pytest.mark.parametrize(
    ("question", "begins"),
    [
        ("What is the melting point of iron?", "I could"),
        ("Wie hoch ist der Schmelzpunkt von Eisen?", "Das habe"),
        ("铁的熔点是多少？", "我在文档中"),
        ("Quel est le point de fusion du fer ?", "Je n'ai"),
        ("E-4711", "I could"),
    ],
)
def test_not_knowing_is_said_in_the_language_of_the_question(question: str, begins: str) -> None:
    assert not_found(question).startswith(begins)
    assert says_not_found(f" {not_found(question)}\n")


TWO_PAGES = "End of page one.\n\nTop of page two. More of it."


def test_the_page_of_a_quote_is_that_of_its_side_of_the_break() -> None:
    source = chunk(TWO_PAGES, page=4, page_end=5, start=100)
    first = Quote("1", source, "End of page one.")
    second = Quote("1", source, "Top of page two.")
    assert pages(first) == (4, 4)
    assert pages(second) == (5, 5)
    location = locate(second, {})
    assert (location.page, location.page_end) == (5, 5)
    assert location.start == 100 + TWO_PAGES.index("Top")
    assert location.end - location.start == len("Top of page two.")


def test_between_several_breaks_the_overlapping_neighbour_decides_or_both_pages_are_named() -> None:
    text = "One.\n\nTwo.\n\nThree."
    source = chunk(text, ordinal=1, page=4, page_end=5, start=100, end=100 + len(text))
    quote = Quote("1", source, "Two.")
    assert pages(quote) == (4, 5)
    after = chunk("Two.\n\nThree. Four.", ordinal=2, page=5, page_end=5, start=106, end=124)
    assert locate(quote, {after.chunk_id: after}).page == 5
    unknown = locate(quote, {})
    assert (unknown.page, unknown.page_end) == (4, 5)


def test_a_marker_is_supported_when_every_sentence_that_uses_it_is() -> None:
    answer = "A is b [1]. C is d [1][2]."
    sentences = [Sentence(0, 11, True, ("1",)), Sentence(12, 26, True, ("2",))]
    assert supported(answer, sentences) == {"1": False, "2": True}
    assert used_markers(answer) == ["1", "2"]


def test_a_generator_without_quotes_cites_chunks() -> None:
    [quote] = quotes_of("It is so [2]. Or [9].", [passage("a", "1"), passage("b", "2")], ())
    assert (quote.marker, quote.text) == ("2", "")


def test_a_cached_answer_comes_back_as_it_was_without_texts() -> None:
    where = Location(page=3, page_end=3, headings=("Leave",), start=1, end=9)
    citation = Citation("1", "doc_1.1.0", "doc_1", "Handbook", where, "Leave is 30 days.", True)
    done = Done(
        "ans_1", "Leave is 30 days. [1]", (citation,), Confidence.GROUNDED, "m", "local", (),
        CacheStatus.NONE, (),
    )  # fmt: skip
    sources, again = decode(encode(Sources((passage("secret text"),)), done))
    assert again == replace(done, answer_id="", cache=CacheStatus.EXACT)
    assert sources.passages[0].chunk.text == ""
    assert sources.passages[0].chunk.chunk_id == "doc_1.1.0"


def test_the_more_answers_are_written_the_longer_each_waits_between_flushes() -> None:
    rhythm = Rhythm(shortest=0.05, longest=0.25, per_second=1000)
    with ExitStack() as streams:
        intervals = []
        for _ in range(400):
            streams.enter_context(rhythm.stream())
            intervals.append(rhythm.interval)
    assert intervals[:50] == [0.05] * 50
    assert intervals[119] == pytest.approx(0.12)
    assert intervals[-1] == 0.25
    assert rhythm.interval == 0.05
