"""Languages are told apart where it matters: in questions of a few words."""

from __future__ import annotations

import pytest

from meshkit import language


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "How many days of vacation do employees get?"),
        ("en", "Mitochondria play a role in calcium homeostasis of the cell."),
        ("de", "Wie viele Urlaubstage haben Beschäftigte im Jahr?"),
        ("es", "¿Cuántos días de vacaciones tienen los empleados?"),
        ("fr", "Combien de jours de congé ont les employés ?"),
        ("ru", "Сколько дней отпуска у сотрудников?"),
        ("zh", "员工每年有多少天假期？"),
        ("ja", "従業員の休暇は何日ありますか。"),
        ("ko", "직원의 휴가는 며칠입니까?"),
        ("ar", "كم عدد أيام الإجازة للموظفين؟"),
    ],
)
def test_a_question_is_known_by_its_language(code: str, text: str) -> None:
    found = language.detect(text)
    assert found.code == code
    assert found.probability > 0.3


@pytest.mark.parametrize("text", ["", "   ", "4711", "ERR-4711", "0x80070057", "login"])
def test_what_has_no_language_is_said_to_have_none_surely(text: str) -> None:
    assert language.detect(text).probability < 0.3


def test_a_long_text_is_read_only_so_far() -> None:
    english = "The quick brown fox jumps over the lazy dog. " * 60
    assert language.detect(english + "很长" * 1_000_000).code == "en"
