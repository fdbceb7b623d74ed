"""Spreadsheets through calamine, and CSV: a line per row, each row knowing its cells."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Iterable, Sequence

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
)

from services.ingestion.extraction import decoding
from services.ingestion.extraction.model import (
    CSV,
    Extracted,
    FileRefused,
    Section,
    Source,
    TextBuilder,
)
from services.ingestion.extraction.tools import Tools

Cell = int | float | str | bool | dt.time | dt.date | dt.timedelta

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SNIFFED_BYTES = 16_384
_LONGEST_FIELD = 1 << 27


def extract(source: Source, tools: Tools) -> Extracted:
    """Every sheet of a workbook, hidden ones too, the name of each as a heading.

    Formulas stand for the values that were saved with them.

    Raises:
        FileRefused: FILE_ENCRYPTED or FILE_CORRUPT.
    """
    out = TextBuilder()
    try:
        with source.open() as file:
            workbook = CalamineWorkbook.from_filelike(file)
            sheets = [
                sheet.name
                for sheet in workbook.sheets_metadata
                if sheet.typ == SheetTypeEnum.WorkSheet
            ]
            for number, name in enumerate(sheets, start=1):
                _write_sheet(workbook.get_sheet_by_name(name), name, out)
                tools.progress(number, len(sheets))
    except PasswordError:
        raise FileRefused(
            "FILE_ENCRYPTED", "The workbook is protected by a password; upload it without."
        ) from None
    except (CalamineError, OSError, ValueError):
        raise FileRefused(
            "FILE_CORRUPT", "The workbook is damaged; open it, save it anew and upload that."
        ) from None
    return out.extracted()


def extract_csv(data: bytes, media_type: str) -> Extracted:
    """Rows of a CSV file, whatever separates its fields."""
    text = decoding.decode(data)
    csv.field_size_limit(_LONGEST_FIELD)
    out = TextBuilder()
    rows = csv.reader(io.StringIO(text, newline=""), _dialect(text, media_type))
    try:
        _write_rows(enumerate(rows), "", 0, out)
    except csv.Error:
        return Extracted(text)  # no table, but a text all the same
    return out.extracted()


def _dialect(text: str, media_type: str) -> type[csv.Dialect]:
    if media_type != CSV:
        return csv.excel_tab
    try:
        # Whole lines only: half a quoted field misleads it.
        sample = text[:_SNIFFED_BYTES].rpartition("\n")[0] or text
        found = csv.Sniffer().sniff(sample, delimiters=",;\t|")
    except csv.Error:
        return csv.excel
    # It guesses these from the sample and is wrong where quotes are rare.
    found.doublequote, found.quotechar, found.skipinitialspace = True, '"', True
    return found


def _write_sheet(sheet: CalamineSheet, name: str, out: TextBuilder) -> None:
    if sheet.start is None:
        return
    out.add_heading(" ".join(decoding.tidy(name).split()) or "Sheet", 1)
    # Columns count from the first that holds anything, rows from the sheet's first.
    _write_rows(enumerate(sheet.iter_rows()), _quoted(name), sheet.start[1], out)


def _write_rows(
    rows: Iterable[tuple[int, Sequence[Cell]]], name: str, first_column: int, out: TextBuilder
) -> None:
    """Writes rows; those between two empty ones are one block and one section."""
    block: list[str] = []
    top, left, right = 0, first_column, first_column

    def close() -> None:
        if not block:
            return
        start = out.add_block("\n".join(block))
        out.sections.append(
            Section(start, out.length, name, top + 1, _letters(left), _letters(right))
        )
        block.clear()

    for number, row in rows:
        shown = [_shown(cell) for cell in row]
        filled = [column for column, text in enumerate(shown) if text]
        if not filled:
            close()
            continue
        first, last = first_column + filled[0], first_column + filled[-1]
        if not block:
            top, left, right = number, first, last
        left, right = min(left, first), max(right, last)
        block.append(" | ".join(filter(None, shown)))
    close()


def _shown(value: Cell) -> str:
    """A cell as a person reads it, on one line."""
    if isinstance(value, str):
        return " ".join(decoding.tidy(value).split())
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, dt.datetime):
        date, _, time = value.isoformat(sep=" ").partition(" ")
        return date if time == "00:00:00" else f"{date} {time}"
    return str(value)


def _letters(column: int) -> str:
    """A column's name: A for 0, AA for 26."""
    name, column = "", column + 1
    while column:
        column, letter = divmod(column - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def _quoted(name: str) -> str:
    """A sheet's name as a reference to it is written."""
    return name if _PLAIN_NAME.match(name) else "'" + name.replace("'", "''") + "'"
