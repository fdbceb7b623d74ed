"""Which documents a question names: periods, series of titles, owners, and what is left to ask."""

import pytest

from services.generation.passages import Chunk, Location, Passage
from services.generation.periods import Period, periods, without_periods
from services.generation.scope import may_be_scoped, scope

QUARTERS = ("2022 Q3", "2022 Q4", "2023 Q1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022 Q3 ACME.pdf", [Period(2022, "Q3")]),
        ("the third quarter of 2022", [Period(2022, "Q3")]),
        ("3Q22 results", [Period(2022, "Q3")]),
        ("fourth quarter of fiscal year 2022", [Period(2022, "Q4")]),
        ("first quarter FY24", [Period(2024, "Q1")]),
        ("im 2. Quartal 2023", [Period(2023, "Q2")]),
        ("H2 2021", [Period(2021, "H2")]),
        ("Q1 and Q2 2023", [Period(2023, "Q1"), Period(2023, "Q2")]),
        ("annual report 2021", [Period(2021)]),
        ("第三季度", [Period(0, "Q3")]),
        ("Form 10-Q, iPhone 14, part 20231", []),
    ],
)
def test_periods_are_read_in_the_ways_they_are_written(text: str, expected: list[Period]) -> None:
    assert list(periods(text)) == expected


def test_a_title_without_its_period_is_the_name_of_its_series() -> None:
    assert without_periods("2022 Q3 ACME.pdf") == "ACME.pdf"


def passage(title: str, text: str) -> Passage:
    return Passage("1", Chunk(f"{title}.1.0", title, 1, 0, title, text, Location()), 1.0)


def filings() -> list[Passage]:
    """Three quarters of two companies, whose tickers say nothing about their names."""
    return [
        passage(f"{quarter} {ticker}.pdf", f"{company} Inc. sold more {thing} than before.")
        for quarter in reversed(QUARTERS)
        for ticker, company, thing in (("ACM", "Acme", "anvils"), ("GLB", "Globex", "globes"))
    ]


def named(question: str) -> list[str]:
    found = scope(question, filings(), limit=8)
    return [name for group in found.documents for name in group] if found else []


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What were Acme's net sales in Q3 2022?", ["2022 Q3 ACM.pdf"]),
        ("What did Globex sell in the third quarter of 2022?", ["2022 Q3 GLB.pdf"]),
        ("What were Acme's net sales in the latest 10-Q?", ["2023 Q1 ACM.pdf"]),
        ("How have Acme's net sales changed over time?", [f"{q} ACM.pdf" for q in QUARTERS]),
        ("How did Globex do across these quarters?", [f"{q} GLB.pdf" for q in QUARTERS]),
        (
            "How does the most recent quarter of Acme compare to previous quarters?",
            [f"{q} ACM.pdf" for q in QUARTERS],
        ),
        (
            "How do the net sales of Acme and of Globex compare in Q4 2022?",
            ["2022 Q4 ACM.pdf", "2022 Q4 GLB.pdf"],
        ),
    ],
)
def test_the_documents_of_the_named_owner_and_period_are_chosen(
    question: str, expected: list[str]
) -> None:
    assert may_be_scoped(question)
    assert named(question) == expected


@pytest.mark.parametrize(
    "question",
    [
        "What were Acme's net sales?",  # no period and one owner: an ordinary question
        "What were Initech's net sales in Q3 2022?",  # an owner that no document mentions
        "What were Acme's net sales in Q3 2019?",  # a period that no document is of
    ],
)
def test_a_question_that_names_no_document_is_searched_as_it_is(question: str) -> None:
    assert named(question) == []


def test_two_owners_that_are_compared_are_two_groups() -> None:
    found = scope("How do the sales of Acme compare with those of Globex?", filings(), limit=8)
    assert found is not None
    assert {frozenset(name[-7:-4] for name in group) for group in found.documents} == {
        frozenset({"ACM"}),
        frozenset({"GLB"}),
    }


def test_of_many_documents_the_newest_are_searched() -> None:
    found = scope("How have Acme's sales changed over time?", filings(), limit=2)
    assert found is not None
    assert found.documents == (("2022 Q4 ACM.pdf",), ("2023 Q1 ACM.pdf",))


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("How have Acme's net sales changed over time?", "How have net sales changed?"),
        ("What was the gross margin of Acme in Q3 2022?", "What was the gross margin?"),
        ("In Acme's Q3 2022 10-Q, what drove sales of anvils?", "what drove sales of anvils?"),
        ("How did Acme fare in Q3 2022?", "How did fare?"),
    ],
)
def test_what_names_the_documents_is_not_asked_of_them(question: str, left: str) -> None:
    found = scope(question, filings(), limit=8)
    assert found is not None
    assert found.question == left
