"""Lines of one PDF page as pdfium tells them, mended where it reads them wrong.

pdfium gives text in the order of the content stream. Three things it gets wrong
on real pages: figures of neighbouring columns without a space between them; the
text that a producer put beside right-to-left glyphs, which it turns around; and
glyphs whose font does not say what they are.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Iterator

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as pdfium_c  # type: ignore[import-untyped]

from services.ingestion.extraction.decoding import tidy
from services.ingestion.extraction.ocr import Raster, scale
from services.ingestion.extraction.pdf_layout import Line

HYPHENATED = re.compile("[\x02\ufffe]\n?")
"""What pdfium writes for a hyphen at the end of a line."""
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_FIGURES_IN_A_ROW = re.compile(r"(?:\d\S*\s+){2}\S*\d")
_TOUCHING = re.compile(r"(?<=[\d)%])(?=[\d(])")
_GAP = 0.45
"""Width between two figures, in heights of a digit, above which they are two."""
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f]")
_UNREADABLE_SHARE = 0.3
_LITTLE_TEXT = 200
_COVERED = 0.5
_SHOWN_ANNOTATIONS = frozenset({pdfium_c.FPDF_ANNOT_WIDGET, pdfium_c.FPDF_ANNOT_FREETEXT})


class Page:
    """One page of an open document; closed by leaving its block.

    Args:
        document: The document.
        index: From 0.
    """

    def __init__(self, document: pdfium.PdfDocument, index: int) -> None:
        self._page = document[index]
        if self._has_fields():
            # Fields and typed notes become part of the page, and so of its text.
            pdfium_c.FPDFPage_Flatten(self._page.raw, pdfium_c.FLAT_NORMALDISPLAY)
            self._page.close()
            self._page = document[index]

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._page.close()

    def lines(self) -> list[Line]:
        """Its lines in the order of the content stream."""
        textpage = self._page.get_textpage()
        try:
            return list(_Text(textpage).lines())
        finally:
            textpage.close()

    def is_picture(self, lines: list[Line]) -> bool:
        """Whether it shows text that is not among its lines: a scan, drawn or unmapped letters."""
        text = "".join(line.text for line in lines)
        if not text:
            return any(True for _ in self._page.get_objects(max_depth=2))
        if len(_UNREADABLE.findall(text)) > _UNREADABLE_SHARE * len(text):
            return True
        return len(text) < _LITTLE_TEXT and self._share_of_images() > _COVERED

    def raster(self) -> Raster:
        """It as pixels, for recognition."""
        width, height = self._page.get_size()
        bitmap = self._page.render(scale=scale(width, height), grayscale=True)
        try:
            rows, stride = memoryview(bitmap.buffer).cast("B"), bitmap.stride
            pixels = b"".join(
                rows[start : start + bitmap.width]
                for start in range(0, stride * bitmap.height, stride)
            )
            return Raster(bitmap.width, bitmap.height, pixels)
        finally:
            bitmap.close()

    def _share_of_images(self) -> float:
        width, height = self._page.get_size()
        shares = [0.0]
        for image in self._page.get_objects([pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=4):
            left, bottom, right, top = image.get_bounds()
            shares.append((right - left) * (top - bottom) / max(1.0, width * height))
        return max(shares)

    def _has_fields(self) -> bool:
        raw = self._page.raw
        for index in range(pdfium_c.FPDFPage_GetAnnotCount(raw)):
            annotation = pdfium_c.FPDFPage_GetAnnot(raw, index)
            kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
            pdfium_c.FPDFPage_CloseAnnot(annotation)
            if kind in _SHOWN_ANNOTATIONS:
                return True
        return False


class _Text:
    """Text of a page with the geometry behind its characters."""

    def __init__(self, textpage: pdfium.PdfTextPage) -> None:
        self._raw = textpage.raw
        self._content: str = textpage.get_text_range()
        self._x, self._y = ctypes.c_double(), ctypes.c_double()
        self._box = tuple(ctypes.c_double() for _ in range(4))
        self._matrix = pdfium_c.FS_MATRIX()

    def lines(self) -> Iterator[Line]:
        position = 0
        for raw in self._content.split("\n"):
            lead = len(raw) - len(raw.lstrip())
            bare = raw.strip()
            if tidy(bare).strip():
                first = position + lead
                line = self._line(bare, first)
                if line.text:
                    yield line
            position += _units(raw) + 1

    def _line(self, bare: str, first: int) -> Line:
        """Its text is at `first` of the page's text, in UTF-16 units."""
        char, last_char = self._char(first), self._char(first + _units(bare) - 1)
        # The baseline: boxes of single letters differ in height.
        left, baseline = self._origin(char)
        _, last_baseline = self._origin(last_char) if HYPHENATED.search(bare) else (0, baseline)
        _, right, _, _ = self._bounds(last_char)
        return Line(
            text=tidy(self._mended(bare, first)).strip(),
            baseline=baseline,
            last_baseline=last_baseline,
            size=self._size(char),
            weight=pdfium_c.FPDFText_GetFontWeight(self._raw, char),
            left=left,
            right=max(left, right),
        )

    def _mended(self, bare: str, first: int) -> str:
        if _RIGHT_TO_LEFT.search(bare):
            return self._right_to_left(bare, first)
        if _FIGURES_IN_A_ROW.search(bare):
            return self._apart(bare, first)
        return bare

    def _apart(self, bare: str, first: int) -> str:
        """A space between figures that stand apart on the page."""
        pieces, start = [], 0
        for touching in _TOUCHING.finditer(bare):
            at = touching.start()
            after = self._char(first + _units(bare[:at]))
            _, right, bottom, top = self._bounds(after - 1)
            left, *_ = self._bounds(after)
            if left - right > _GAP * (top - bottom):
                pieces.append(bare[start:at])
                start = at
        return " ".join([*pieces, bare[start:]])

    def _right_to_left(self, bare: str, first: int) -> str:
        """Text put beside the glyphs is in reading order already: turned back.

        Its characters are known by their box, which all of them share. What has
        no mapping besides is the glyphs it stands for.
        """
        chars: list[tuple[str, tuple[float, ...]]] = []
        for offset, letter in enumerate(bare):
            char = self._char(first + _units(bare[:offset]))
            if not pdfium_c.FPDFText_HasUnicodeMapError(self._raw, char):
                chars.append((letter, self._bounds(char)))
        out: list[str] = []
        start = 0
        while start < len(chars):
            end = start + 1
            while end < len(chars) and chars[end][1] == chars[start][1]:
                end += 1
            run = "".join(letter for letter, _ in chars[start:end])
            turned = end - start > 1 and _RIGHT_TO_LEFT.search(run)
            out.append(run[::-1] if turned else run)
            start = end
        # Shapes of letters by position become the letters that people type.
        return unicodedata.normalize("NFKC", "".join(out))

    def _char(self, position: int) -> int:
        """Index of the glyph behind a position in the page's text."""
        return int(pdfium_c.FPDFText_GetCharIndexFromTextIndex(self._raw, position))

    def _origin(self, char: int) -> tuple[float, float]:
        pdfium_c.FPDFText_GetCharOrigin(self._raw, char, self._x, self._y)
        return self._x.value, self._y.value

    def _bounds(self, char: int) -> tuple[float, float, float, float]:
        left, right, bottom, top = self._box
        pdfium_c.FPDFText_GetCharBox(self._raw, char, left, right, bottom, top)
        return left.value, right.value, bottom.value, top.value

    def _size(self, char: int) -> float:
        """Points, as shown: some producers set everything in size 1 and scale it."""
        size = float(pdfium_c.FPDFText_GetFontSize(self._raw, char))
        if pdfium_c.FPDFText_GetMatrix(self._raw, char, self._matrix):
            size *= float((self._matrix.c**2 + self._matrix.d**2) ** 0.5)
        return round(size, 1)


def _units(text: str) -> int:
    """Length as pdfium counts it, in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
