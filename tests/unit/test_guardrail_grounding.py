"""A sentence is supported only by what its cited source says."""

import pytest

from services.guardrail.grounding import check
from services.guardrail.sentences import split

SOURCE = (
    "Apple Inc. reported total net sales of $82,959 million for the quarter. "
    "Services revenue increased 12% compared to 2021. "
    "Employees are not entitled to carry over leave."
)


def judge(answer: str, question: str = "") -> tuple[bool, str]:
    support = check(answer, {"1": SOURCE, "2": "Offices close at noon on Friday."}, question)
    return support.sentences[0].supported, support.sentences[0].reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Total net sales were $82,959 million in the quarter [1].", ""),
        ("Total net sales were 82959 million in the quarter [1].", ""),
        ("Total net sales were $82,960 million in the quarter [1].", "number_differs"),
        ("Total net sales were $82,959 million in the quarter.", "no_citation"),
        ("Total net sales were $82,959 million in the quarter [7].", "no_citation"),
        ("Total net sales of Nvidia were $82,959 million in the quarter [1].", "name_missing"),
        ("Employees are entitled to carry over leave [1].", "negation_differs"),
        ("Services revenue decreased 12% compared to 2021 [1].", "negation_differs"),
        ("The canteen serves lunch to visitors daily [1].", "low_overlap"),
    ],
)
def test_support_follows_numbers_names_negation_and_words(answer: str, reason: str) -> None:
    assert judge(answer) == (reason == "", reason)


def test_a_quote_is_supported_whatever_it_looks_like() -> None:
    table = "Products | $ 63,355 | $ 63,948\nServices | 19,604 | 17,486"
    answer = "Services | 19,604 | 17,486 [1]"
    assert check(answer, {"1": table}).share == 1.0


def test_a_citation_behind_two_sentences_speaks_for_both() -> None:
    answer = SOURCE.rpartition("Employees")[0] + "[1]"
    judged = check(answer, {"1": SOURCE})
    assert [support.supported for support in judged.sentences] == [True, True]


def test_a_citation_does_not_reach_over_a_paragraph() -> None:
    judged = check("Leave is generous.\n\nServices revenue increased 12% [1].", {"1": SOURCE})
    assert [support.reason for support in judged.sentences] == ["no_citation", ""]


def test_two_sources_support_a_sentence_together() -> None:
    sources = {"1": "The office in Berlin has 40 desks.", "2": "The office in Paris has 25 desks."}
    judged = check("The Berlin office has 40 desks, the Paris office 25 desks [1][2].", sources)
    assert judged.sentences[0].supported
    assert judged.sentences[0].markers == ("1", "2")


def test_a_short_answer_is_judged_with_its_question() -> None:
    assert judge("On Friday [2].", "When do offices close at noon?")[0]
    assert not judge("On Friday [2].", "Which reptiles hibernate beneath frozen lakes?")[0]


def test_offsets_count_code_points_of_the_answer() -> None:
    answer = "💡 Net sales rose [1]. Services revenue increased 12% [2]."
    spans = [answer[sentence.start : sentence.end] for sentence in split(answer)]
    assert spans == ["💡 Net sales rose [1].", "Services revenue increased 12% [2]."]


def test_an_answer_without_words_is_not_grounded() -> None:
    assert check("[1]", {"1": SOURCE}).share == 0.0


def test_abbreviations_and_figures_end_no_sentence() -> None:
    answer = "Apple Inc. sold 3.5 units to Acme Corp. in May [1]. Then it stopped [1]."
    assert len(split(answer)) == 2
