"""Every format through the real extraction process: places, tables, scans, and attacks."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import struct
import zipfile
import zlib
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from services.ingestion.chunking import ChunkingPolicy, chunk
from services.ingestion.extraction import ocr, runner
from services.ingestion.extraction.model import Extracted, FileRefused
from services.ingestion.extraction.ocr import OcrPolicy
from services.ingestion.extraction.runner import Limits
from tests.unit import made_files as made
from tests.unit.test_chunking import tokenize
from tests.unit.test_extraction import MESSY, docx, paragraph, pdf, read, reason

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason=f"scans are not tested: {ocr.INSTALL}"
)
real = pytest.mark.skipif(not MESSY.is_dir(), reason="../shared/data/messy is not here")
LETTER = "Travel policy\nEvery employee may claim\na hotel of up to 140 EUR a night"
CLIMBED = Path("/tmp/citemesh-climbed")
SECRET = "root:x:0:0"
EXTERNAL = '<!DOCTYPE x [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'
LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha" * 50}">' for n in range(9))


def places(found: Extracted, tokens: int = 8) -> dict[str, str]:
    """Text of every chunk by the section it says it stands in."""
    policy = ChunkingPolicy(tokens=tokens, overlap_tokens=0, characters=2000)
    return {piece.section: piece.text for piece in chunk(found, tokenize, policy)}


async def test_a_presentation_keeps_slides_notes_tables_groups_and_charts(tmp_path: Path) -> None:
    found = await read(tmp_path, made.pptx(), "deck.pptx")
    first, second, third = (found.text[page.start : page.end] for page in found.pages)
    assert "Revenue grew\nCosts fell\n\nNotes: Thank the Oslo team." in first
    assert "Year | Days\n2026 | 30" in second
    assert "Grouped text" in second
    assert "East | West\nSales | 19.2 | 21.4" in second
    assert third.strip() == "The end\n\nNotes: Leave time for questions."
    assert [heading.title for heading in found.headings] == [
        "Quarterly review", "Figures", "The end",
    ]  # fmt: skip
    assert [section.name for section in found.sections] == ["Slide 1", "Slide 2", "Slide 3"]


@pytest.mark.parametrize("tokens", [12, 20, 60, 400])
async def test_a_chunk_of_a_workbook_names_its_sheet_and_cells(tmp_path: Path, tokens: int) -> None:
    found = await read(tmp_path, made.xlsx(), "book.xlsx")
    assert "cell B1 | 0.5 | cell D1\ncell B2 | 1 | cell D2" in found.text
    where = places(found, tokens)
    assert sum(text.count("cell B") for text in where.values()) == 24
    for place, text in where.items():
        rows = [int(row) for row in re.findall(r"cell [BD](\d+)", text)]
        if rows:
            assert place == f"Leave!B{rows[0]}:D{rows[-1]}"
        else:
            assert (place, text.split("\n\n")[-1]) == ("'Q1 ''26'!B2:C2", "two lines | TRUE")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
async def test_a_csv_file_is_read_by_whatever_separates_it(tmp_path: Path, separator: str) -> None:
    rows = (("Name", "Ort", "Tage"), ("Müller", '"a, b; c"', "30"), ("Weiß", "Köln", "25"))
    data = "\n".join(separator.join(row) for row in rows).encode("cp1252")
    found = await read(tmp_path, data, "leave.csv")
    assert found.text == "Name | Ort | Tage\nMüller | a, b; c | 30\nWeiß | Köln | 25"
    assert next(iter(places(found, tokens=8))) == "A1:C1"
    assert list(places(found, tokens=60)) == ["A1:C3"]


async def test_an_opendocument_text_an_epub_and_rtf_are_read(tmp_path: Path) -> None:
    body = '<text:h text:outline-level="1">Leave</text:h><text:p>Thirty days.</text:p>'
    for data, name in (
        (made.odt(body), "a.odt"),
        (made.epub("<h1>Leave</h1><p>Thirty days.</p>"), "a.epub"),
        (rb"{\rtf1\ansi {\b Leave}\par Thirty days.\par Gr\'fc\'dfe \u8364?}", "a.rtf"),
    ):
        found = await read(tmp_path, data, name)
        assert "Leave" in found.text
        assert "Thirty days." in found.text
    assert "Grüße €" in found.text


async def test_a_mail_brings_its_attachments(tmp_path: Path) -> None:
    inner = made.eml({"deep.txt": b"deep inside"})
    attached = {"rows.csv": b"a,b\n1,2", "offer.pdf": pdf("Offer\n200 EUR"), "inner.eml": inner}
    found = await read(tmp_path, made.eml(attached), "mail.eml")
    assert found.title == "Grüße aus Köln"
    assert "Subject: Grüße aus Köln" in found.text
    assert "Die Rechnung liegt bei." in found.text
    assert "deep inside" in found.text
    where = places(found, tokens=12)
    assert where["rows.csv"].endswith("a | b\n1 | 2")
    assert "200 EUR" in where["offer.pdf"]


async def test_an_attachment_that_cannot_be_read_does_not_cost_the_mail(tmp_path: Path) -> None:
    found = await read(tmp_path, made.eml({"a.bin": b"\x7fELF\x00\x00"}), "mail.eml")
    assert "Die Rechnung" in found.text
    assert found.warnings == ("attachment 1 not read: FILE_TYPE_UNSUPPORTED",)


@needs_tesseract
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
async def test_an_image_is_recognised(tmp_path: Path, kind: str) -> None:
    found = await read(tmp_path, made.picture(pdf(LETTER), kind), "scan")
    assert "hotel of up to 140 EUR a night" in found.text
    assert len(found.pages) == 1


@needs_tesseract
async def test_a_page_that_lies_upside_down_is_recognised(tmp_path: Path) -> None:
    page = pdf("\n".join(["Travel policy", *["Every employee may claim a hotel"] * 12]))
    found = await read(tmp_path, made.picture(page, turned=180), "scan.png")
    assert found.text.count("Every employee may claim a hotel") > 8


@needs_tesseract
async def test_a_scanned_page_among_pages_of_text_is_read_in_its_place(tmp_path: Path) -> None:
    scan = made.scanned(made.picture(pdf(LETTER)))
    seen: list[tuple[int, int]] = []
    path = tmp_path / "blob"
    path.write_bytes(made.joined(pdf("First\nof all"), scan, pdf("Last\nof all")))
    found = await runner.extract(
        path, "mixed.pdf", Limits(), lambda done, total: seen.append((done, total))
    )
    first, second, third = (found.text[page.start : page.end] for page in found.pages)
    assert ("of all" in first, "140 EUR" in second, "of all" in third) == (True, True, True)
    assert seen[0] == (1, 3)
    assert found.warnings == ()


@needs_tesseract
async def test_recognition_does_not_count_against_the_time_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[float] = []
    follow = runner._Listener.outcome

    async def watched(
        listener: runner._Listener, process: Process, deadline: asyncio.Timeout
    ) -> Extracted | None:
        before = deadline.when() or 0.0
        try:
            return await follow(listener, process, deadline)
        finally:
            granted.append((deadline.when() or 0.0) - before)

    monkeypatch.setattr(runner._Listener, "outcome", watched)
    scan = made.scanned(*[made.picture(pdf(LETTER))] * 3)
    policy = OcrPolicy()
    found = await read(tmp_path, scan, "scan.pdf", Limits(ocr=policy))
    assert found.text.count("140 EUR") == 3
    assert granted[0] >= 3 * policy.page_seconds


@needs_tesseract
async def test_only_so_many_pages_are_recognised(tmp_path: Path) -> None:
    scan = made.scanned(*[made.picture(pdf(LETTER))] * 3)
    found = await read(tmp_path, scan, "scan.pdf", Limits(ocr=OcrPolicy(most_pages=2)))
    assert found.text.count("140 EUR") == 2
    assert found.warnings == ("too many pages to recognise; left out: 3",)


@needs_tesseract
async def test_killing_the_reader_kills_tesseract_too(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(made.scanned(*[made.picture(pdf(LETTER))] * 8))
    started = asyncio.Event()
    task = asyncio.create_task(
        runner.extract(path, "scan.pdf", Limits(), lambda done, total: started.set())
    )
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while _children("tesseract"):
            await asyncio.sleep(0.02)


def _children(name: str) -> list[Path]:
    """Processes of that name that this test's readers left: their parent is gone."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue
        orphan = lines.get("PPid") == "1" and lines.get("State", "Z")[0] != "Z"
        if lines["Name"] == name and orphan:
            found.append(status)
    return found


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "image"])
async def test_without_tesseract_a_scan_fails_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scan: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image = made.picture(pdf(LETTER))
    with pytest.raises(FileRefused, match=r"OCR_UNAVAILABLE.*apt install tesseract-ocr"):
        await read(tmp_path, made.scanned(image) if scan else image, "scan")


async def test_without_tesseract_the_pages_of_text_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    scan = made.scanned(made.picture(pdf(LETTER)))
    found = await read(tmp_path, made.joined(pdf("First\nof all"), scan), "mixed.pdf")
    assert "of all" in found.text
    assert found.warnings[0].startswith("pages not recognised: 2; install tesseract")


def bomb(member: str) -> bytes:
    return made.archive({**dict.fromkeys([member], b""), "bomb.xml": bytes(30_000_000)})


@pytest.mark.parametrize("member", ["word/document.xml", "ppt/presentation.xml", "xl/workbook.xml"])
async def test_an_archive_bomb_is_refused_unopened(tmp_path: Path, member: str) -> None:
    assert await reason(tmp_path, bomb(member)) == "ARCHIVE_BOMB"


async def test_a_bomb_that_lies_about_its_size_ends_alone(tmp_path: Path) -> None:
    data = bytearray(docx("<w:p>" + " " * 100_000_000 + "</w:p>"))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as whole:
        entry = whole.getinfo("word/document.xml")
    # Both headers say that the member is small.
    true = struct.pack("<I", entry.file_size)
    data = data.replace(true, struct.pack("<I", 1000))
    try:
        found = await read(tmp_path, bytes(data), "a.docx", Limits(memory_bytes=400_000_000))
    except FileRefused as refused:
        assert refused.reason in ("EXTRACTION_MEMORY", "FILE_CORRUPT", "NO_TEXT", "ARCHIVE_BOMB")  # noqa: PT017
    else:
        assert len(found.text) < 10_000_000


def attacked(entities: str) -> dict[str, bytes]:
    """A file of every XML format whose text refers to an entity of its own."""
    word = docx(paragraph("before &secret; after"))
    with zipfile.ZipFile(io.BytesIO(word)) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    members["word/document.xml"] = entities.encode() + members["word/document.xml"]
    with zipfile.ZipFile(io.BytesIO(made.pptx())) as whole:
        slides = {name: whole.read(name) for name in whole.namelist()}
    slides["ppt/slides/slide1.xml"] = (
        slides["ppt/slides/slide1.xml"]
        .replace(b"<p:sld ", entities.encode() + b"<p:sld ", 1)
        .replace(b"Quarterly review", b"before &secret; after")
    )
    with zipfile.ZipFile(io.BytesIO(made.xlsx())) as whole:
        sheets = {name: whole.read(name) for name in whole.namelist()}
    strings = "xl/sharedStrings.xml"
    sheets[strings] = (
        sheets[strings]
        .replace(b"<sst ", entities.encode() + b"<sst ", 1)
        .replace(b"Ann", b"before &secret; after")
    )
    return {
        "a.docx": made.archive(members),
        "a.pptx": made.archive(slides),
        "a.xlsx": made.archive(sheets),
        "a.odt": made.odt("<text:p>before &secret; after</text:p>", entities),
        "a.epub": made.epub("<p>before &secret; after</p>", entities),
    }


@pytest.mark.parametrize(
    "entities",
    [EXTERNAL, f'<!DOCTYPE x [{LAUGHS}<!ENTITY secret "&a8;">]>'],
    ids=["external", "laughs"],
)
async def test_entities_are_not_resolved(tmp_path: Path, entities: str) -> None:
    for name, data in attacked(entities).items():
        try:
            found = await read(tmp_path, data, name, Limits(memory_bytes=600_000_000))
        except FileRefused as refused:
            assert refused.reason in ("FILE_CORRUPT", "EXTRACTION_MEMORY", "NO_TEXT"), name  # noqa: PT017
        else:
            assert SECRET not in found.text, name
            assert found.text.count("ha") < 1000, name


async def test_macros_and_paths_that_climb_are_never_touched(tmp_path: Path) -> None:
    word = docx(paragraph("Only this text"))
    with zipfile.ZipFile(io.BytesIO(word)) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    members["word/vbaProject.bin"] = b"Shell evil"
    members[f"../../../..{CLIMBED}"] = b"evil"
    found = await read(tmp_path, made.archive(members), "a.docm")
    assert found.text == "Only this text"
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "blob"]
    assert not CLIMBED.exists()


async def test_an_image_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk_of = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk_of
    png += struct.pack(">I", zlib.crc32(chunk_of)) + struct.pack(">I", 0) + b"IDAT"
    assert await reason(tmp_path, png, "a.png") == "FILE_TOO_LARGE"


@real
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OCRmyPDF__2400dpi.pdf", "laurier, kruidnagel, kerrie, zout"),
        ("OCRmyPDF__francais.pdf", "Portez ce vieux whisky au juge"),
        ("pdfplumber__background-checks.pdf", "Guam 0 100 55 12 3 0 0 0 0 1 0"),
        ("sample-files__google-doc-document.pdf", "273.879.750 1 83,190,556 2 8,935,112"),
        ("sample-files__habibi.pdf", "حَبيبي"),
        ("sample-files__libreoffice-form.pdf", "Gender:\nFemale Male\nNationality:"),
        ("unstructured__single_table.pdf", "Chipper 20,843 260.57 (145.80) 96.20 (57.53)"),
        ("unstructured__docx-tables.docx", "Header Col 1 | Header Col 2"),
        ("unstructured__duplicate-paragraphs.doc", "This document contains duplicates"),
        ("unstructured__fake-doc.rtf", "Row 1, Cell 1 | Row 1, Cell 2"),
        ("unstructured__fake-email-attachment.eml", "Hey this is a fake attachment!"),
        ("unstructured__fake-html-cp1252.html", "Der Preis betrug 15,50 €."),
        ("unstructured__fake-power-point-table.pptx", "Red | Green | Blue"),
        ("unstructured__fake-text-utf-16-le.txt", "- I love fuzzy blankets"),
        ("unstructured__stanley-cups.csv", "Maple Leafs | TOR | 13"),
        ("unstructured__vodafone.xlsx", "Cash flow | FY 22 | FY 23 | 5"),
        ("unstructured__winter-sports.epub", "WINTER SPORTS"),
    ],
)
async def test_what_a_person_reads_in_a_messy_file_is_read(name: str, words: str) -> None:
    scan = name.startswith("OCR") or "single_table" in name
    if scan and shutil.which("tesseract") is None:
        pytest.skip(f"scans are not tested: {ocr.INSTALL}")
    found = await runner.extract(MESSY / name, name, Limits())
    assert words in found.text


@real
async def test_columns_are_read_one_after_the_other() -> None:
    name = "unstructured__korean-text-with-tables.pdf"
    text = (await runner.extract(MESSY / name, name, Limits())).text
    left = [
        text.index(words)
        for words in ("할인점·주유", "쿠팡, 티몬", "서비스 제공 기준", "구매 및 충전")
    ]
    right = [text.index(words) for words in ("아티제, 폴", "임대매장은 제외\n", "기타")]
    assert left == sorted(left)
    assert right[0] > left[1]
