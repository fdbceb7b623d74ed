"""Text formats: encodings, headings, tables, and what is no text."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestion.extraction import html, markdown, media
from services.ingestion.extraction.decoding import decode
from services.ingestion.extraction.model import (
    CSV,
    DOCX,
    EML,
    HTML,
    MARKDOWN,
    PDF,
    PLAIN,
    PNG,
    RTF,
    FileRefused,
)

GERMAN = "Die schöne Frau zahlt 15,50 € für Käse.\r\nZweite Zeile"


@pytest.mark.parametrize(
    "data",
    [
        GERMAN.encode(),
        codecs.BOM_UTF8 + GERMAN.encode(),
        GERMAN.encode("utf-16"),
        codecs.BOM_UTF16_BE + GERMAN.encode("utf-16-be"),
        GERMAN.encode("utf-16-le"),
        GERMAN.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + GERMAN.encode("utf-32-le"),
        GERMAN.encode("cp1252"),
    ],
    ids=["utf8", "utf8-bom", "utf16", "utf16be-bom", "utf16le", "utf16be", "utf32", "cp1252"],
)
def test_a_text_is_read_in_whatever_encoding_it_was_written(data: bytes) -> None:
    assert decode(data) == GERMAN.replace("\r\n", "\n")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_every_utf8_text_survives_decoding(text: str) -> None:
    assert decode(codecs.BOM_UTF8 + text.encode()) == text


def test_binary_garbage_is_refused() -> None:
    with pytest.raises(FileRefused, match="FILE_TYPE_UNSUPPORTED"):
        decode(bytes(range(256)) * 20)


def test_what_postgres_cannot_store_is_taken_out() -> None:
    assert "\x00" not in decode(("a" * 500 + "\x00 b").encode())


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"%PDF-1.7 ...", "x.txt", PDF),
        (b"junk before\n%PDF-1.4", "x", PDF),
        (b"PK\x03\x04 word/", "x.pdf", DOCX),
        (b"<!DOCTYPE html><p>x", "x.txt", HTML),
        (b"  <html><body>", "", HTML),
        (b"# Title", "x.MD", MARKDOWN),
        (b"# Title", "x.txt", PLAIN),
        (b"<p>fragment</p>", "x.html", HTML),
        (b"x", "", PLAIN),
        (b"\x89PNG\r\n\x1a\n", "scan.pdf", PNG),
        (b"{\\rtf1 x}", "letter.doc", RTF),
        (b"a,b", "x.csv", CSV),
        (b"Received: by x\nFrom: a@b\nTo: c\nSubject: s\n\nbody", "mail", EML),
        (b"From: here on\nthe text goes on", "x.txt", PLAIN),
    ],
)
def test_the_type_comes_from_the_content_and_only_text_formats_from_the_name(
    head: bytes, name: str, expected: str
) -> None:
    assert media.of_head(head, name) == expected


@pytest.mark.parametrize(
    "head",
    [b"MZ\x90\x00", b"\x7fELF\x02", b"\x1f\x8b\x08", b"\x00\x01\x02" * 9],
)
def test_what_cannot_be_read_is_named_at_its_first_bytes(head: bytes) -> None:
    with pytest.raises(FileRefused) as refused:
        media.of_head(head, "report.pdf")
    assert refused.value.reason == "FILE_TYPE_UNSUPPORTED"


def test_a_character_cut_in_half_by_the_end_of_the_head_is_no_garbage() -> None:
    text = ("ü" * 5000).encode()
    assert media.of_head(text[:4095] + b"\xc3", "x.txt") == PLAIN


def test_markdown_keeps_its_text_and_shows_its_headings() -> None:
    text = (
        "---\na: b\n---\n# One\n\nUnder\n-----\ntext\n\n```\n# not a heading\n```\n### Deep ###\n"
    )
    found = markdown.extract(text)
    assert found.text == text
    assert [(h.level, h.title) for h in found.headings] == [(1, "One"), (2, "Under"), (3, "Deep")]
    assert all(found.text[h.start : h.end].find(h.title) >= 0 for h in found.headings)


def test_html_keeps_text_in_order_without_scripts_and_with_rows_on_lines() -> None:
    page = b"""<html><head><title> Annual &amp; report </title><style>p{}</style></head><body>
    <nav>Home</nav><h1>One</h1><p>Hello <b>bold</b> world&nbsp;&lt;3</p><script>evil()</script>
    <ul><li>first</li><li>second</li></ul>
    <table><tr><th>Year</th><th>Sales</th></tr><tr><td>2022</td><td><p>82,959</p></td></tr></table>
    <div>loose<br>text</div><h2>Two</h2><pre>a  b
  c</pre><p>unclosed <div>end"""
    found = html.extract(page)
    assert found.title == "Annual & report"
    assert "evil" not in found.text
    assert "Home" not in found.text
    assert "p{}" not in found.text
    assert "Year | Sales\n2022 | 82,959" in found.text
    assert "Hello bold world" in found.text
    assert "- first\n- second" in found.text
    assert "loose\ntext" in found.text
    assert "a  b\n  c" in found.text
    assert [(h.level, h.title) for h in found.headings] == [(1, "One"), (2, "Two")]
    assert all(found.text[h.start : h.end] == h.title for h in found.headings)


def test_html_is_read_in_the_encoding_it_declares() -> None:
    page = '<meta charset="windows-1251"><p>Привет, мир</p>'.encode("cp1251")
    assert "Привет, мир" in html.extract(page).text


@given(st.text(st.sampled_from("<>/ab table tr td li h1 script !-= \n\"'")))
def test_no_html_however_broken_stops_the_reader(soup: str) -> None:
    html.extract(soup.encode())


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Все люди рождаются свободными и равными в своём достоинстве и правах."),
        ("gb18030", "本公司提供产品质量保证，自购买之日起两年内有效。"),
        ("shift_jis", "すべての人間は、生まれながらにして自由であり、平等である。"),
        ("cp1250", "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności."),
        ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."),
    ],
)
def test_an_encoding_that_nothing_names_is_told_by_its_letters(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == text


CONTENT = "<h1>Leave</h1><p>" + "You get thirty days of leave. " * 8 + "</p>"


@pytest.mark.parametrize(
    "page",
    [
        "<header>Brand</header><main>{}</main><div>Cookies</div><footer>Imprint</footer>",
        "<header>Brand</header><article>{}</article><aside>Cookies</aside><footer>Imprint</footer>",
        "<div role=banner>Brand</div><div role=main>{}</div><div role=contentinfo>Imprint</div>",
        '{}<div hidden>Brand<div>Cookies</div></div><p style="display: none">Imprint</p>',
    ],
)
def test_what_a_page_says_is_not_its_content_is_dropped(page: str) -> None:
    found = html.extract(page.format(CONTENT).encode()).text
    assert "thirty days" in found
    assert not any(word in found for word in ("Brand", "Cookies", "Imprint"))


@pytest.mark.parametrize(
    "page",
    [
        "<header>{}</header><main>empty</main>",
        "<div>{}</div><aside>beside</aside><footer>below</footer>",
        "<footer>{}",
        "<article><header>{}</header></article>",
    ],
)
def test_text_is_never_dropped_on_a_guess(page: str) -> None:
    found = html.extract(page.format(CONTENT).encode()).text
    assert "thirty days" in found
    assert all(word in found for word in ("beside", "below") if word in page)
