"""Text of an image, frame by frame, by recognition."""

from __future__ import annotations

import warnings

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from services.ingestion.extraction.model import (
    Extracted,
    FileRefused,
    PageSpan,
    Source,
    TextBuilder,
)
from services.ingestion.extraction.ocr import DPI, Raster
from services.ingestion.extraction.tools import Tools

_FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")
_MOST_PIXELS = 400_000_000
"""Larger ones are refused before they are unpacked."""
_LONGEST_SIDE = 6000
_SMALL_DPI = 150
_SHORTEST_SIDE = 1000


def extract(source: Source, tools: Tools) -> Extracted:
    """A page per frame: a scan is often a TIFF of many.

    Raises:
        FileRefused: FILE_CORRUPT, FILE_TOO_LARGE, NO_TEXT or OCR_UNAVAILABLE.
    """
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2  # it refuses twice as many
    out = TextBuilder()
    pages: list[PageSpan] = []
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            source.open() as file,
            Image.open(file, formats=_FORMATS) as image,
        ):
            frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            for number, frame in enumerate(ImageSequence.Iterator(image), start=1):
                text = "" if tools.ocr.exhausted else tools.ocr.read(_raster(frame))
                if out.length and text:
                    out.add("\n\n")
                start = out.add(text)
                pages.append(PageSpan(number, start, out.length))
                tools.progress(number, frames)
                if number == frames:
                    break
    except Image.DecompressionBombError:
        raise FileRefused(
            "FILE_TOO_LARGE", "The image has more than 400 megapixels; upload it smaller."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, TypeError):
        raise FileRefused(
            "FILE_CORRUPT", "The image is damaged or was cut off; upload it again in full."
        ) from None
    if not out.length:
        raise FileRefused("NO_TEXT", "No text can be recognised in the image.")
    return Extracted(out.text(), tuple(pages))


def _raster(frame: Image.Image) -> Raster:
    """Upright, grey on white, about as large as print is at 300 dpi."""
    upright = ImageOps.exif_transpose(frame)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        shown = Image.new("RGBA", upright.size, "white")
        shown.alpha_composite(upright.convert("RGBA"))
        upright = shown
    grey = upright.convert("L")
    longest, shortest = max(grey.size), min(grey.size)
    dpi = float(frame.info.get("dpi", (0, 0))[0] or 0)
    factor = min(1.0, _LONGEST_SIDE / longest)
    if shortest < _SHORTEST_SIDE and (not dpi or dpi <= _SMALL_DPI):
        # A picture of a screen: its letters are half as high as those of a scan.
        factor = min(2.0, _LONGEST_SIDE / longest)
    elif dpi > DPI:
        factor = min(factor, DPI / dpi)
    if factor != 1.0:
        size = (max(1, round(grey.width * factor)), max(1, round(grey.height * factor)))
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    return Raster(grey.width, grey.height, grey.tobytes())
