"""The local answerer quotes what scores best, says so when nothing does, and never invents."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from meshkit.errors import Unavailable
from meshkit.usage import Spend
from services.generation.abstention import NOT_FOUND
from services.generation.answers import Draft
from services.generation.calibration import Calibration
from services.generation.confidence import Ballot, Signals, Vote
from services.generation.extractive import ExtractiveGenerator
from services.generation.passages import Chunk, Facet, Location, Passage
from services.generation.weighing import Scores

SCORER = "tests/cross-encoder"
BALLOT = Ballot(0.0, {"evidence": Vote(1.0, -4.0, 1.0)}, answer=0.5, verified=0.9)
"""A sentence answers when its corrected logit is at least -4."""
CALIBRATIONS = [Calibration(SCORER, "", True, BALLOT, (), "", "")]


class Opinion:
    """A scorer whose logits are looked up by a word of the sentence."""

    def __init__(
        self,
        logits: dict[str, float],
        *,
        fails: bool = False,
        scorer: str = SCORER,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self._logits = logits
        self._fails = fails
        self._who = (scorer, languages)
        self.asked: list[str] = []

    async def score(self, question: str, texts: Sequence[str], *, seconds: float) -> Scores:
        assert question
        assert seconds > 0
        self.asked += texts
        if self._fails:
            raise Unavailable("SERVICE_UNAVAILABLE", "Gone.")
        found = {
            index: logit
            for index, text in enumerate(texts)
            for word, logit in self._logits.items()
            if word in text
        }
        return Scores(found, (), *self._who)


def passage(marker: str, text: str) -> Passage:
    location = Location(page=1, page_end=1, headings=("Leave",), end=len(text))
    return Passage(marker, Chunk(f"d.1.{marker}", "d", 1, int(marker), "Book", text, location), 1.0)


async def written(
    scorer: Opinion, passages: Sequence[Passage], question: str = "What is the leave?", **more: int
) -> tuple[str, Draft]:
    generator = ExtractiveGenerator(scorer, limit=more.pop("limit", 14), calibrations=CALIBRATIONS)
    tokens = more.pop("max_tokens", 1024)
    pieces = [
        piece
        async for piece in generator.write(
            question, passages, max_tokens=tokens, seconds=5, spend=Spend("local", "extractive-2")
        )
    ]
    draft = pieces.pop()
    assert isinstance(draft, Draft)
    return "".join(str(piece) for piece in pieces), draft


TEXT = "Offices open at nine. Annual leave is thirty days. Unused leave expires in March."


async def test_the_two_best_sentences_stand_in_reading_order() -> None:
    text, draft = await written(Opinion({"thirty": 6.0, "expires": 7.0}), [passage("1", TEXT)])
    assert text == "Annual leave is thirty days. [1] Unused leave expires in March. [1]"
    assert [quote.text in TEXT for quote in draft.quotes] == [True, True]
    assert draft.support == BALLOT.support(Signals(evidence=7.0))
    assert draft.ballot is BALLOT


async def test_a_second_sentence_far_behind_is_left_out() -> None:
    text, _ = await written(Opinion({"thirty": 8.0, "expires": 3.0}), [passage("1", TEXT)])
    assert text == "Annual leave is thirty days. [1]"


async def test_when_nothing_scores_the_answer_says_so() -> None:
    text, draft = await written(Opinion({"thirty": -5.0, "nine": -9.0}), [passage("1", TEXT)])
    assert (text, draft.abstained, draft.quotes) == (NOT_FOUND, True, ())
    text, draft = await written(Opinion({}), [])
    assert (text, draft.abstained) == (NOT_FOUND, True)


async def test_the_scorer_reads_where_a_sentence_stands_and_no_more_than_the_limit() -> None:
    scorer = Opinion({})
    await written(scorer, [passage("1", TEXT)], limit=2)
    assert len(scorer.asked) == 2
    assert "Book - Leave: Annual leave is thirty days." in scorer.asked


async def test_a_row_the_question_names_comes_before_prose_about_it() -> None:
    table = "Products 63,355 63,948\nTotal net sales 82,959 81,434\n\nNet sales rose a lot in all."
    scorer = Opinion({"82,959": 4.0, "rose": 8.5, "63,355": 3.9})
    text, _ = await written(scorer, [passage("1", table)], "What were the total net sales?")
    assert text.startswith("Total net sales 82,959 81,434 [1]")
    text, _ = await written(scorer, [passage("1", table)], "Why did total net sales rise?")
    assert text == "Net sales rose a lot in all. [1]"


async def test_without_scores_the_best_words_answer_or_nothing_does() -> None:
    text, draft = await written(Opinion({}, fails=True), [passage("1", TEXT)], "annual leave days")
    assert text == "Annual leave is thirty days. [1]"
    assert draft.degraded == ("rerank",)
    assert draft.support is None
    text, draft = await written(Opinion({}, fails=True), [passage("1", TEXT)], "football in Brazil")
    assert draft.abstained


@pytest.mark.parametrize(("tokens", "sentences"), [(20, 2), (10, 1)])
async def test_an_answer_is_shortened_by_whole_sentences(tokens: int, sentences: int) -> None:
    scorer = Opinion({"thirty": 7.0, "expires": 6.0})
    text, _ = await written(scorer, [passage("1", TEXT)], max_tokens=tokens)
    assert text.count("[1]") == sentences


async def test_a_name_no_document_mentions_is_not_answered_by_a_near_miss() -> None:
    near = [passage("1", "The chief financial officer of the company is Ann Smith.")]
    scorer = Opinion({"Ann Smith": 3.0})
    text, _ = await written(scorer, near, "Who is the chief financial officer of Tesla?")
    assert text == NOT_FOUND
    text, _ = await written(scorer, near, "Who is the chief financial officer?")
    assert "Ann Smith" in text


async def test_the_passage_that_mentions_the_name_comes_first() -> None:
    found = [
        passage("1", "The shares retain a par value of 0.01 dollars."),
        passage("2", "Apple Inc. issues shares. The shares have a par value of 0.00001 dollars."),
    ]
    scorer = Opinion({"retain": 6.0, "0.00001": 5.0})
    text, _ = await written(scorer, found, "What is the par value of the shares of Apple?")
    assert text == "The shares have a par value of 0.00001 dollars. [2]"


async def test_the_same_sentence_of_two_documents_is_said_once() -> None:
    one = passage("1", "Epic filed a lawsuit against the company in California in 2020.")
    two = passage("2", "Epic filed a lawsuit against the company in California in 2020 again.")
    text, _ = await written(Opinion({"Epic": 6.0}), [one, two], "Which lawsuit was filed?")
    assert text.count("Epic") == 1


async def test_announcements_and_running_feet_are_no_answers() -> None:
    first = (
        "Nine Months Ended\nOctober 30, October 31,\nCash flows from operating activities:\n"
        "Apple Inc. | Q1 2023 Form 10-Q | 18"
    )
    second = "Something else is here.\nApple Inc. | Q1 2023 Form 10-Q | 17"
    scorer = Opinion({})
    await written(scorer, [passage("1", first), passage("2", second)])
    assert scorer.asked == ["Book - Leave: Something else is here."]


async def test_of_two_quarters_the_one_the_title_names_answers() -> None:
    def filing(marker: str, title: str, figure: str) -> Passage:
        text = f"Gross margin {figure} 35,885"
        chunk = Chunk(f"{marker}.1.0", marker, 1, 0, title, text, Location(page=4, page_end=4))
        return Passage(marker, chunk, 1.0)

    found = [filing("1", "2023 Q3 AAPL.pdf", "36,413"), filing("2", "2023 Q1 AAPL.pdf", "50,332")]
    scorer = Opinion({"36,413": 4.0, "50,332": 3.0})
    for question in ("What was the gross margin in Q1 2023?", "Gross margin, first quarter 2023?"):
        text, _ = await written(scorer, found, question)
        assert text.startswith("Gross margin 50,332 35,885 [2]")


async def test_a_second_sentence_about_somebody_else_is_left_out() -> None:
    found = [
        passage("1", "Apple Inc. repurchased shares for 19 billion dollars in the quarter."),
        passage("2", "We did not repurchase any shares during the first quarter."),
    ]
    scorer = Opinion({"19 billion": 7.0, "did not": 7.5})
    text, _ = await written(scorer, found, "Did the company Apple repurchase shares?")
    assert text == f"{found[0].chunk.text} [1]"


def part(number: int, marker: str, text: str) -> Passage:
    chunk = Chunk(f"{number}.1.0", str(number), 1, 0, f"2023 Q{number} ACM.pdf", text, Location())
    return Passage(marker, chunk, 1.0, facet=Facet(number, "How have net sales changed?"))


async def test_of_several_documents_each_gives_its_best_sentence_word_for_word() -> None:
    found = [
        part(1, "1", "Net sales were 10 dollars. Trees grew in the yard."),
        part(2, "2", "Net sales were 20 dollars. Trees grew in the yard."),
        part(3, "3", "Nothing of the kind stands in this one."),
    ]
    scorer = Opinion({"10": 2.0, "20": -5.0, "Trees": -9.0, "Nothing": -9.5})
    text, draft = await written(scorer, found, "How have the net sales of Acme changed over time?")
    assert text == "Net sales were 10 dollars. [1]\nNet sales were 20 dollars. [2]"
    assert [quote.chunk.document_id for quote in draft.quotes] == ["1", "2"]


async def test_documents_that_a_question_names_can_still_lack_the_answer() -> None:
    found = [part(1, "1", "Trees grew in the yard."), part(2, "2", "Trees grew in the yard.")]
    text, draft = await written(Opinion({"Trees": -7.5}), found, "How is the weather over time?")
    assert (text, draft.abstained) == (NOT_FOUND, True)


async def test_an_unknown_acronym_is_no_unknown_name() -> None:
    found = [passage("1", "Every employee has 26 days of paid vacation in a calendar year.")]
    text, _ = await written(Opinion({"26": 1.5}), found, "How many PTO days do employees get?")
    assert "26 days" in text


async def test_a_word_in_another_documents_title_casts_no_doubt() -> None:
    handbook = passage("1", "Every employee has 26 days of paid vacation in a calendar year.")
    chunk = replace(passage("2", "Badges are worn.").chunk, title="Security policy")
    found = [handbook, Passage("2", chunk, 1.0)]
    text, _ = await written(
        Opinion({"26": -3.5, "Badges": -9.0}), found, "What is the leave policy?"
    )
    assert "26 days" in text


async def test_a_scorer_nobody_calibrated_does_not_decide_and_is_named() -> None:
    scorer = Opinion({"thirty": 9.0, "nine": -9.0}, scorer="other/model")
    text, draft = await written(scorer, [passage("1", TEXT)], "annual leave days")
    assert text == "Annual leave is thirty days. [1]"
    assert draft.degraded == ("calibration",)
    assert (draft.support, draft.ballot) == (None, None)
    text, draft = await written(scorer, [passage("1", TEXT)], "football in Brazil")
    assert draft.abstained


async def test_logits_in_a_language_the_scorer_does_not_know_do_not_order() -> None:
    german = "Am Montag gibt es Suppe. Die Beschäftigten haben dreißig Tage Urlaub im Jahr."
    scorer = Opinion({"Suppe": 9.0, "dreißig": -9.0})
    question = "Wie viele Tage Urlaub haben die Beschäftigten?"
    text, _ = await written(scorer, [passage("1", german)], question)
    assert text.startswith("Die Beschäftigten haben dreißig Tage Urlaub im Jahr.")


async def test_an_answer_says_in_the_questions_language_that_it_does_not_know() -> None:
    text, draft = await written(Opinion({}), [], "Wie hoch ist der Eiffelturm in Metern?")
    assert text == "Das habe ich in den Dokumenten nicht gefunden."
    assert draft.abstained


async def test_a_heading_in_a_text_is_no_answer_and_says_where_a_sentence_stands() -> None:
    scorer = Opinion({})
    text = "Nobody works on Sundays.\n\n2.1 Vacation\n\nEverybody has 26 days a year."
    await written(scorer, [passage("1", text)])
    assert "Book - Vacation: Everybody has 26 days a year." in scorer.asked
    assert "Book - Leave: Nobody works on Sundays." in scorer.asked
    assert len(scorer.asked) == 2
