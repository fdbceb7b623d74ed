"""Files through the real extraction process: what comes out, and why others do not."""

from __future__ import annotations

import asyncio
import io
import signal
import zipfile
from pathlib import Path

import pytest

from services.ingestion.extraction import runner
from services.ingestion.extraction.model import Extracted, FileRefused
from services.ingestion.extraction.runner import Limits

SAMPLES = Path(__file__).parents[1] / "samples"
FILINGS = Path(__file__).parents[3] / "shared" / "data" / "pdfqa-kgrag" / "pdfs"
MESSY = Path(__file__).parents[3] / "shared" / "data" / "messy"


def pdf(*pages: str, encrypt: bool = False) -> bytes:
    """A PDF by hand: a page per text, a line per line, the first line of each large."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
    ]
    font = 3 + 2 * len(pages)
    for number, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * number} 0 R"
            f" /Resources << /Font << /F1 {font} 0 R >> >> >>".encode()
        )
        lines = "".join(
            f"BT /F1 {18 if n == 0 else 11} Tf 72 {740 - 16 * n} Td ({line}) Tj ET\n"
            for n, line in enumerate(text.splitlines())
        )
        objects.append(f"<< /Length {len(lines)} >>\nstream\n{lines}\nendstream".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    trailer = b""
    if encrypt:
        objects.append(
            b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <"
            + b"41" * 32
            + b"> /U <"
            + b"42" * 32
            + b"> >>"
        )
        trailer = f" /Encrypt {len(objects)} 0 R /ID [<00> <00>]".encode()
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets))
    out.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R".encode() + trailer)
    out.write(f" >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def docx(body: str) -> bytes:
    """A DOCX by hand from the XML of its body."""
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types">'
            f'<Default Extension="rels" ContentType="application/vnd.openxmlformats-package'
            f'.relationships+xml"/><Override PartName="/word/document.xml"'
            f' ContentType="{main}.document.main+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1"'
            f' Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
        )
    return out.getvalue()


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


async def read(
    tmp_path: Path, data: bytes, name: str = "file", limits: Limits | None = None
) -> Extracted:
    path = tmp_path / "blob"
    path.write_bytes(data)
    return await runner.extract(path, name, limits or Limits())


async def reason(tmp_path: Path, data: bytes, name: str = "file") -> str:
    with pytest.raises(FileRefused) as refused:
        await read(tmp_path, data, name)
    assert refused.value.detail.endswith(".")
    return refused.value.reason


async def test_a_pdf_yields_its_pages_headings_and_rows(tmp_path: Path) -> None:
    rows = "Net sales\nProducts $ 63,355 $ 63,948\nServices 19,604 17,486\nTotal 82,959 81,434"
    found = await read(tmp_path, pdf("Report\nFirst page\nmore text", rows))
    first, second = found.pages
    assert (first.number, second.number) == (1, 2)
    assert "First page" in found.text[first.start : first.end]
    assert "Total 82,959 81,434" in found.text[second.start : second.end].splitlines()
    assert [heading.title for heading in found.headings] == ["Report", "Net sales"]
    assert all(found.text[h.start : h.end] == h.title for h in found.headings)


async def test_a_docx_yields_headings_lists_and_table_rows(tmp_path: Path) -> None:
    cell = "<w:tc>" + paragraph("{}") + "</w:tc>"
    table = "<w:tbl>" + "".join(
        "<w:tr>" + "".join(cell.format(value) for value in row) + "</w:tr>"
        for row in (("Year", "Days"), ("2026", "30"))
    ) + "</w:tbl>"  # fmt: skip
    body = paragraph("Leave", "Heading1") + paragraph("You get 30_days *now*.") + table
    found = await read(tmp_path, docx(body))
    assert "You get 30_days *now*." in found.text
    assert "Year | Days\n2026 | 30" in found.text
    (heading,) = found.headings
    assert found.text[heading.start : heading.end] == heading.title == "Leave"


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"", "empty.txt", "FILE_EMPTY"),
        (pdf("Secret\ntext", encrypt=True), "locked.pdf", "FILE_ENCRYPTED"),
        (pdf("Report\ntext")[:200], "cut.pdf", "FILE_CORRUPT"),
        (b"%PDF-", "five-bytes.pdf", "FILE_CORRUPT"),
        (pdf(""), "scan.pdf", "NO_TEXT"),
        (docx(paragraph("x"))[:-40], "cut.docx", "FILE_CORRUPT"),
        (b" \n\t", "blank.txt", "NO_TEXT"),
        (b"\x00\x01\x02\x03" * 50, "noise.txt", "FILE_TYPE_UNSUPPORTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, data: bytes, name: str, expected: str
) -> None:
    assert await reason(tmp_path, data, name) == expected


async def test_one_byte_is_a_document(tmp_path: Path) -> None:
    assert (await read(tmp_path, b"x", "tiny.txt")).text == "x"


async def test_an_archive_that_is_no_docx_is_unsupported(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert await reason(tmp_path, out.getvalue()) == "FILE_TYPE_UNSUPPORTED"


async def test_a_reader_that_wants_too_much_memory_ends_alone(tmp_path: Path) -> None:
    with pytest.raises(FileRefused) as refused:
        await read(tmp_path, b"word " * 40_000_000, "a.txt", Limits(memory_bytes=400_000_000))
    assert refused.value.reason == "EXTRACTION_MEMORY"


async def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    pages = pdf(*["Title\n" + "line of text\n" * 40] * 400)
    with pytest.raises(FileRefused) as refused:
        await read(tmp_path, pages, "long.pdf", Limits(seconds=0.02))
    assert refused.value.reason == "EXTRACTION_TIMEOUT"


async def test_cancelling_an_extraction_leaves_no_process_behind(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(pdf(*["Title\n" + "line of text\n" * 40] * 800))
    seen: list[asyncio.subprocess.Process] = []
    started = asyncio.Event()
    create = asyncio.create_subprocess_exec

    async def spying(*arguments, **options):
        seen.append(await create(*arguments, **options))
        started.set()
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", spying)
        task = asyncio.create_task(runner.extract(path, "long.pdf", Limits()))
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen[0].returncode == -signal.SIGKILL


async def test_the_reader_sees_no_secret_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_DATABASE_URL", "postgresql://u:secret@h/d")
    assert not [name for name in runner._environment() if name.startswith("CITEMESH")]


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.*")), ids=lambda path: path.name)
async def test_every_sample_document_is_read(path: Path) -> None:
    found = await runner.extract(path, path.name, Limits())
    assert len(found.text) > 200


@pytest.mark.skipif(not FILINGS.is_dir(), reason="../shared/data/pdfqa-kgrag is not here")
async def test_a_filing_keeps_its_rows_of_numbers_on_the_right_page() -> None:
    path = FILINGS / "2022 Q3 AAPL.pdf"
    found = await runner.extract(path, path.name, Limits())
    page = found.pages[3]
    rows = found.text[page.start : page.end].splitlines()
    assert "Total net sales 82,959 81,434 304,182 282,457" in rows
    assert any(heading.title.startswith("Item 1.") for heading in found.headings)


@pytest.mark.skipif(not MESSY.is_dir(), reason="../shared/data/messy is not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OCRmyPDF__invalid.pdf", "FILE_CORRUPT"),
        ("sample-files__libreoffice-writer-password.pdf", "FILE_ENCRYPTED"),
        ("unstructured__password_protected.xlsx", "FILE_ENCRYPTED"),
        ("unstructured__empty.txt", "FILE_EMPTY"),
    ],
)
async def test_real_broken_files_say_why(name: str, expected: str) -> None:
    with pytest.raises(FileRefused) as refused:
        await runner.extract(MESSY / name, name, Limits())
    assert refused.value.reason == expected
