"""What text becomes before it is indexed or searched; pure, for both back ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.lexical import LexicalChunk, LexicalVersion, VersionKey
from services.retrieval.lexical.analysis import (
    LONGEST_WORD,
    bigrams,
    indexed_texts,
    near,
    query_words,
    well_formed,
    words,
)
from services.retrieval.lexical.language import LANGUAGES, OTHER, STOP_WORDS, language_of
from services.retrieval.lexical.tantivy_index import STEMMERS


def version(*texts: str, title: str = "", language: str = "") -> LexicalVersion:
    chunks = [LexicalChunk(n, text, (), language) for n, text in enumerate(texts, start=1)]
    return LexicalVersion(VersionKey("prj_a", "doc_1", 1), title, {}, (), chunks)


def languages(found: LexicalVersion) -> list[str]:
    return [text.language for text in indexed_texts(found)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many days of vacation do employees get?", "en"),
        ("Wie viele Urlaubstage bekommen die Mitarbeiter?", "de"),
        ("Combien de jours de congé les employés ont-ils ?", "fr"),
        ("¿Cuántos días de vacaciones tienen los empleados?", "es"),
        ("Сколько дней отпуска у сотрудников в этом году?", "ru"),
        ("Πόσες ημέρες άδειας έχουν οι εργαζόμενοι;", "el"),
    ],
)
def test_the_language_of_a_question_is_told(text: str, language: str) -> None:
    assert language_of(words(text)) == language


def test_every_language_has_a_stemmer_and_stop_words() -> None:
    assert set(LANGUAGES) == set(STEMMERS) == set(STOP_WORDS)
    assert OTHER not in LANGUAGES


def test_a_chunk_without_function_words_is_in_the_language_of_its_document() -> None:
    report = "Die Gesellschaft hat im Geschäftsjahr den Umsatz und das Ergebnis gesteigert."
    assert languages(version(report, "Umsatz 2023 2024\n117 154")) == ["de", "de"]


def test_a_document_in_two_languages_is_told_apart_chunk_by_chunk() -> None:
    german = "Die Mitarbeiter haben Anspruch auf dreißig Tage Urlaub, und zwar in jedem Jahr."
    english = "The employees are entitled to thirty days of vacation in each year of service."
    assert languages(version(german, english)) == ["de", "en"]


def test_a_declared_language_wins_and_an_unknown_one_is_told_by_the_text() -> None:
    assert languages(version("Budget", language="de-AT")) == ["de"]
    english = "The budget of the year is in the table."
    assert languages(version(english, language="tlh")) == ["en"]


def test_function_words_of_a_question_are_not_looked_for_unless_there_is_nothing_else() -> None:
    assert query_words("What is the vacation policy?").words == ["vacation", "policy"]
    assert query_words("To be or not to be").words == ["to", "be", "or", "not"]
    assert query_words("Was ist die Regelung zum Homeoffice?").words == ["regelung", "homeoffice"]


@pytest.mark.parametrize(
    ("word", "edits"),
    [("cats", 0), ("budgt", 1), ("vacaton", 1), ("epidemilogy", 2), ("e4711x", 0), ("20240101", 0)],
)
def test_only_words_long_enough_to_be_recognised_are_misspelt(word: str, edits: int) -> None:
    assert near(word) == edits


@given(st.text())
def test_any_text_has_words_that_can_be_stored(text: str) -> None:
    for word in (*words(text), *bigrams(well_formed(text))):
        assert word
        assert len(word) <= LONGEST_WORD * 2
    well_formed(text).encode("utf-8")


@given(st.text(alphabet=st.characters(categories=["L", "N", "Zs"])))
def test_a_word_of_a_text_is_a_word_of_a_query(text: str) -> None:
    found = query_words(text)
    assert set(found.words) <= set(words(text))
    assert set(found.pairs) == set(bigrams(text))


def test_half_of_a_surrogate_pair_and_nul_are_replaced() -> None:
    assert well_formed("a\ud83d b\0c") == "a? b c"
    assert indexed_texts(version("half \ud83d of it"))[0].own.spaced.encode()


def test_scripts_without_spaces_become_pairs() -> None:
    assert bigrams("年度报告 x 报") == ["年度", "度报", "报告", "报"]
    assert bigrams("วันลา")
    assert words("Jahr 年度报告 2024") == ["jahr", "2024"]
