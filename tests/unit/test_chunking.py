"""Chunks lose nothing, fit their budget, and say exactly where they stand."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingestion.chunking import Chunk, ChunkingPolicy, chunk, digest
from services.ingestion.extraction.markdown import extract as read_markdown
from services.ingestion.extraction.model import Extracted, Heading, PageSpan

_TOKEN = re.compile(r"[^\W_]{1,6}|[^\w\s]|_")


def tokenize(text: str) -> list[tuple[int, int]]:
    """Words in pieces of six letters, punctuation by itself: like WordPiece."""
    return [match.span() for match in _TOKEN.finditer(text)]


def cut(text: str, tokens: int = 40, overlap: int = 8, document: Extracted | None = None):
    policy = ChunkingPolicy(tokens=tokens, overlap_tokens=overlap, characters=tokens * 12)
    return chunk(document or Extracted(text), tokenize, policy)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=14)
separators = st.sampled_from([" ", " ", " ", ". ", "\n", "\n\n", "? ", "。", "\t", " | ", "  "])
texts = st.lists(st.tuples(words, separators), max_size=250).map(
    lambda pairs: "".join(word + separator for word, separator in pairs)
)


@st.composite
def documents(draw: st.DrawFn) -> Extracted:
    text = draw(texts)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    pages = tuple(
        PageSpan(number, start, end)
        for number, (start, end) in enumerate(itertools.pairwise(cuts), start=1)
    )
    starts = sorted(draw(st.sets(st.integers(0, max(0, len(text) - 1)), max_size=4)))
    headings = tuple(
        Heading(at, min(len(text), at + 3), draw(st.integers(1, 4)), f"heading {at}")
        for at in starts
        if text
    )
    return Extracted(text, pages, headings)


def covered(text: str, chunks: list[Chunk]) -> set[int]:
    seen: set[int] = set()
    for piece in chunks:
        seen.update(range(piece.start, piece.end))
    return {at for at, char in enumerate(text) if not char.isspace()} - seen


@settings(max_examples=150, deadline=None)
@given(documents(), st.integers(8, 60), st.integers(0, 4))
def test_no_text_is_lost_and_every_span_is_exact(
    document: Extracted, tokens: int, overlap: int
) -> None:
    chunks = cut("", tokens, overlap, document)
    assert covered(document.text, chunks) == set()
    for ordinal, piece in enumerate(chunks):
        assert piece.ordinal == ordinal
        assert piece.text == document.text[piece.start : piece.end]
        assert piece.text == piece.text.strip() != ""


@settings(max_examples=150, deadline=None)
@given(documents(), st.integers(8, 60), st.integers(0, 4))
def test_no_chunk_is_over_its_budget(document: Extracted, tokens: int, overlap: int) -> None:
    for piece in cut("", tokens, overlap, document):
        assert piece.token_count == len(tokenize(piece.text))
        assert len(piece.text) == 1 or piece.token_count <= tokens
        assert len(piece.text) <= tokens * 12


@settings(max_examples=60, deadline=None)
@given(documents())
def test_chunks_move_forward_and_are_the_same_every_time(document: Extracted) -> None:
    chunks = cut("", 20, 6, document)
    assert all(a.start < b.start and a.end < b.end for a, b in itertools.pairwise(chunks))
    assert digest(chunks) == digest(cut("", 20, 6, document))


def test_a_word_without_end_is_cut_rather_than_lost() -> None:
    text = "x" * 5000
    chunks = cut(text)
    assert covered(text, chunks) == set()
    assert all(piece.token_count <= 40 for piece in chunks)


def test_chinese_is_cut_at_its_own_full_stops() -> None:
    text = "本公司提供产品质量保证。" * 12
    chunks = cut(text, tokens=16)
    assert len(chunks) > 1
    assert all(piece.text.endswith("。") for piece in chunks)


def test_a_chunk_ends_with_a_sentence_where_it_can() -> None:
    text = " ".join(f"Sentence number {n} says a little about thing {n}." for n in range(40))
    assert all(piece.text.endswith(".") for piece in cut(text))


def test_abbreviations_do_not_end_a_sentence() -> None:
    text = "The firm Apple Inc. Announced that Mr. Cook would speak in the U.S. About it. " * 10
    assert all(piece.text.endswith("it.") for piece in cut(text, tokens=40))


def test_rows_of_a_table_stay_whole() -> None:
    rows = [f"Net sales of region {n} $ {n},123 {n},456 {n},789" for n in range(1, 9)] * 6
    for piece in cut("\n".join(rows), tokens=50):
        assert set(piece.text.split("\n")) <= set(rows)


def test_neighbours_share_about_a_sentence_and_sections_do_not() -> None:
    sentences = " ".join(f"This is sentence {n} of the long section." for n in range(30))
    first, second, *_ = cut(sentences, tokens=40, overlap=12)
    assert first.start < second.start < first.end
    chunks = cut("", 40, 12, read_markdown(f"# One\n\n{sentences}\n\n# Two\n\n{sentences}"))
    assert any(piece.text.startswith("# Two") for piece in chunks)
    assert not any("# Two" in piece.text and not piece.text.startswith("# Two") for piece in chunks)


def test_a_chunk_knows_its_page_and_the_headings_above_it() -> None:
    body = "Some words that fill the page with text. " * 8
    text = f"Handbook\n{body}\nLeave\n{body}\nTravel\n{body}"
    at = [text.index(title) for title in ("Handbook", "Leave", "Travel")]
    document = Extracted(
        text,
        (PageSpan(1, 0, at[2]), PageSpan(2, at[2], len(text))),
        (
            Heading(at[0], at[0] + 8, 1, "Handbook"),
            Heading(at[1], at[1] + 5, 2, "Leave"),
            Heading(at[2], at[2] + 6, 2, "Travel"),
        ),
    )
    chunks = cut("", 40, 8, document)
    first = next(piece for piece in chunks if piece.text.startswith("Leave"))
    last = next(piece for piece in chunks if piece.text.startswith("Travel"))
    assert (first.page, first.headings) == (1, ("Handbook", "Leave"))
    assert (last.page, last.page_end, last.headings) == (2, 2, ("Handbook", "Travel"))


def test_another_policy_has_another_digest() -> None:
    text = "One sentence after the other. " * 60
    assert digest(cut(text, tokens=40)) != digest(cut(text, tokens=30))


def test_a_text_of_white_space_has_no_chunks() -> None:
    assert cut(" \n\t \n") == []


@pytest.mark.parametrize("wrong", [{"tokens": 4}, {"overlap_tokens": 150}, {"characters": 10}])
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        ChunkingPolicy(**wrong)


def test_a_long_filing_is_cut_in_half_a_second() -> None:
    text = "\n\n".join(
        f"Item {n}. Revenue for the period was $ {n},123 compared to $ {n},001. " * 12
        for n in range(500)
    )
    started = time.process_time()
    chunks = cut(text, tokens=200, overlap=30)
    assert time.process_time() - started < 2.0  # half a second on an idle machine
    assert len(chunks) > 300
