"""Names of files: what is stored and shown of those that were made to deceive."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestion.file_names import LONGEST_NAME_BYTES, NAMELESS, file_name, title_of


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        # What people send stays as it is.
        ("report.pdf", "report.pdf"),
        ("Bericht für März (2).pdf", "Bericht für März (2).pdf"),
        ("年度报告.docx", "年度报告.docx"),
        ("דוח שנתי.pdf", "דוח שנתי.pdf"),
        ("👩\u200d💻 notes.md", "👩\u200d💻 notes.md"),
        ("Q3: plan?.txt", "Q3: plan?.txt"),
        # Paths, in either spelling.
        ("../../etc/passwd", "passwd"),
        ("/etc/shadow", "shadow"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("C:\\Users\\ann\\cv.docx", "cv.docx"),
        ("C:cv.docx", "cv.docx"),
        ("\\\\server\\share\\a.txt", "a.txt"),
        ("a/b/..", NAMELESS),
        ("....//....//x", "x"),
        # Nothing at all.
        ("", NAMELESS),
        (".", NAMELESS),
        ("..", NAMELESS),
        ("/", NAMELESS),
        ("   ", NAMELESS),
        ("\u202e\u2066\u200b", NAMELESS),
        ("\u200d", NAMELESS),
        # Characters that end a header, a line, a string or drive a terminal.
        ("a\r\nSet-Cookie: x=1.txt", "a Set-Cookie: x=1.txt"),
        ("report.pdf\x00.exe", "report.pdf.exe"),
        ("\x1b[31mred\x07.txt", "[31mred.txt"),
        ("a\u2028b\u2029c.txt", "a b c.txt"),
        # Writing turned around, and marks that nobody sees.
        ("invoice_\u202efdp.exe", "invoice_fdp.exe"),
        ("\u2067a\u2069.txt", "a.txt"),
        ("pay\u200bpal\ufeff.txt", "paypal.txt"),
        ("a\u00a0\u3000b.txt", "a b.txt"),
        # Two ways to write one name are one name.
        ("Ma\u0308rz.txt", "März.txt"),
        # Names of devices, and what some system hides or cuts off.
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1.pdf", "_com1.pdf"),
        ("console.txt", "console.txt"),
        (".bashrc", "bashrc"),
        ("report.pdf. . .", "report.pdf"),
        # A second extension is shown, not believed: the content tells the type.
        ("invoice.pdf.exe", "invoice.pdf.exe"),
        ("invoice.exe.pdf", "invoice.exe.pdf"),
    ],
)  # fmt: skip
def test_a_name_is_stored_as_what_it_looks_like(sent: str, stored: str) -> None:
    assert file_name(sent) == stored


def test_a_long_name_keeps_its_extension_and_whole_characters() -> None:
    assert file_name("a" * 400 + ".pdf") == "a" * 251 + ".pdf"
    long = file_name("報" * 400 + ".pdf")
    assert long.endswith("報.pdf")
    assert len(long.encode()) <= LONGEST_NAME_BYTES
    assert len(file_name("a." + "b" * 400)) == LONGEST_NAME_BYTES


@given(st.text(max_size=600))
def test_no_name_is_a_path_or_holds_what_cannot_be_seen(sent: str) -> None:
    name = file_name(sent)
    assert name.strip() == name != ""
    assert len(name.encode()) <= LONGEST_NAME_BYTES
    assert not set("/\\") & set(name)
    assert name not in (".", "..")
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in name}
    assert file_name(name) == name


def test_a_title_comes_from_the_first_that_shows_something() -> None:
    assert title_of("Given", "found", "a.txt") == "Given"
    assert title_of(" \x00", "found\nhere", "a.txt") == "found here"
    assert title_of("", "\u202e", "a.txt") == "a.txt"
    assert title_of("", "", "") == NAMELESS
    assert len(title_of("x" * 5000, "", "")) == 1024
