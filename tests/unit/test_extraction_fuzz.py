"""Broken files through the real extraction process: a text or a reason, and nothing left over.

The long form, five hundred through a running mesh, is `make messy FUZZ=500`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest.messy.mutation import Mutant, mutants
from services.ingestion.extraction import runner
from services.ingestion.extraction.model import FileRefused
from services.ingestion.extraction.ocr import OcrPolicy
from services.ingestion.extraction.runner import Limits
from tests.unit import made_files as made
from tests.unit.test_extraction import docx, paragraph, pdf

FILES = [
    ("a.pdf", pdf("Report\nfirst page", "Second\npage")),
    ("a.docx", docx(paragraph("Leave", "Heading1") + paragraph("Thirty days."))),
    ("a.pptx", made.pptx()),
    ("a.xlsx", made.xlsx()),
    ("a.epub", made.epub("<h1>Leave</h1><p>Thirty days.</p>")),
    ("a.eml", made.eml({"rows.csv": b"a,b\n1,2"})),
    ("a.html", b"<main><h1>Leave</h1><table><tr><td>30<td>days</table></main>"),
    ("a.txt", "Dreißig Tage Urlaub.".encode("utf-16")),
]
LIMITS = Limits(memory_bytes=600_000_000, seconds=30.0, ocr=OcrPolicy(most_pages=0))


def test_the_same_seed_breaks_the_same_files_in_the_same_way() -> None:
    assert list(mutants(FILES, 16, seed=3)) == list(mutants(FILES, 16, seed=3))
    assert list(mutants(FILES, 16, seed=3)) != list(mutants(FILES, 16, seed=4))


@pytest.mark.parametrize("seed", range(4))
async def test_a_broken_file_is_read_or_says_why_not_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))

    async def ends_well(number: int, mutant: Mutant) -> None:
        path = tmp_path / f"blob-{number}"
        path.write_bytes(mutant.content)
        refusals: list[FileRefused] = []
        try:
            await runner.extract(path, mutant.name, LIMITS)
        except FileRefused as refused:
            refusals.append(refused)
        for refusal in refusals:
            assert refusal.reason.isupper(), mutant.name
            assert refusal.detail.endswith("."), mutant.name
            assert not isinstance(refusal, runner.ReaderDied), mutant.name

    broken = list(enumerate(mutants(FILES, len(FILES), seed)))
    for pair in zip(broken[::2], broken[1::2], strict=True):
        await asyncio.gather(*(ends_well(*one) for one in pair))
    assert list((tmp_path / "temporary").iterdir()) == []
