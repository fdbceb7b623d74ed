"""Office files, mails and scans made by the libraries people make them with, or by hand."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage

import pypdfium2
import xlsxwriter
from PIL import Image
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

ODF = "urn:oasis:names:tc:opendocument:xmlns"


def pptx() -> bytes:
    """Three slides: text with notes; a table, a group and a chart; nothing but a title."""
    deck = Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Quarterly review"
    first.placeholders[1].text = "Revenue grew\nCosts fell"
    first.notes_slide.notes_text_frame.text = "Thank the Oslo team."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Figures"
    box = (Inches(1), Inches(2), Inches(4), Inches(1))
    table = second.shapes.add_table(2, 2, *box).table
    for row, cells in enumerate((("Year", "Days"), ("2026", "30"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    second.shapes.add_group_shape().shapes.add_textbox(*box).text_frame.text = "Grouped text"
    data = CategoryChartData()
    data.categories = ["East", "West"]
    data.add_series("Sales", (19.2, 21.4))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *box, data)
    third = deck.slides.add_slide(deck.slide_layouts[5])
    third.shapes.title.text = "The end"
    third.notes_slide.notes_text_frame.text = "Leave time for questions."
    return saved(deck.save)


def xlsx() -> bytes:
    """A sheet of two tables, each cell telling where it is; an empty one; one with a quote."""
    out = io.BytesIO()
    with xlsxwriter.Workbook(out) as book:
        leave = book.add_worksheet("Leave")
        for row in (*range(1, 15), *range(20, 30)):
            leave.write_row(f"B{row}", [f"cell B{row}", row / 2, f"cell D{row}"])
        book.add_worksheet("Empty")
        book.add_worksheet("Q1 '26").write_row("B2", ["two\nlines", True])
    return out.getvalue()


def archive(members: dict[str, str | bytes]) -> bytes:
    """A ZIP of these members, in order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def odt(body: str, doctype: str = "") -> bytes:
    """An OpenDocument text from the XML of its body."""
    return archive(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f'<?xml version="1.0"?>{doctype}<office:document-content'
            f' xmlns:office="{ODF}:office:1.0" xmlns:text="{ODF}:text:1.0" office:version="1.2">'
            f"<office:body><office:text>{body}</office:text></office:body>"
            "</office:document-content>",
            "META-INF/manifest.xml": f'<manifest:manifest xmlns:manifest="{ODF}:manifest:1.0"/>',
        }
    )


def epub(chapter: str, doctype: str = "") -> bytes:
    """An EPUB of one chapter, the XHTML of its body."""
    return archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container version="1.0"'
            ' xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile'
            ' full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
            "</container>",
            "book.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata'
            ' xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Book</dc:title></metadata>'
            '<manifest><item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="c"/></spine></package>',
            "c.xhtml": f'{doctype}<html xmlns="http://www.w3.org/1999/xhtml"><body>{chapter}</body>'
            "</html>",
        }
    )


def eml(attachments: dict[str, bytes]) -> bytes:
    """A mail with a German body and these attachments."""
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", "bob@example.com"
    message["Subject"] = "Grüße aus Köln"
    message["Date"] = "Fri, 23 Dec 2022 12:08:48 -0600"
    message.set_content("Die Rechnung liegt bei.\n", charset="iso-8859-1")
    for name, content in attachments.items():
        message.add_attachment(content, maintype="application", subtype="x", filename=name)
    return message.as_bytes()


def picture(pdf: bytes, kind: str = "PNG", turned: int = 0) -> bytes:
    """The first page of a PDF as an image, as a scanner makes it."""
    document = pypdfium2.PdfDocument(pdf)
    image = document[0].render(scale=200 / 72, grayscale=True).to_pil().rotate(turned, expand=True)
    return saved(lambda out: image.save(out, kind, dpi=(200, 200)))


def scanned(*pages: bytes) -> bytes:
    """A PDF whose pages are these images and nothing else."""
    images = [Image.open(io.BytesIO(page)) for page in pages]
    return saved(
        lambda out: images[0].save(
            out, "PDF", save_all=True, append_images=images[1:], resolution=200
        )
    )


def joined(*documents: bytes) -> bytes:
    """The pages of several PDFs in one."""
    whole = pypdfium2.PdfDocument.new()
    for document in documents:
        whole.import_pages(pypdfium2.PdfDocument(document))
    return saved(whole.save)


def saved(save) -> bytes:
    out = io.BytesIO()
    save(out)
    return out.getvalue()
