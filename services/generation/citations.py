"""From quotes and markers to citations that name the page. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.generation.answers import Citation, Quote, Sentence
from services.generation.candidates import flat
from services.generation.passages import Chunk, Location, Passage

_MARKERS = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_GAP = re.compile(r"\n[ \t]*\n")


def used_markers(answer: str) -> list[str]:
    """Markers in the order in which the answer uses them first."""
    found = (marker.strip() for group in _MARKERS.findall(answer) for marker in group.split(","))
    return list(dict.fromkeys(found))


def quotes_of(answer: str, passages: Sequence[Passage], quotes: Sequence[Quote]) -> list[Quote]:
    """One or more quotes per marker the answer uses; a generator that gave none cites the chunk."""
    by_marker = {passage.marker: passage for passage in passages}
    found: list[Quote] = []
    for marker in used_markers(answer):
        own = [quote for quote in quotes if quote.marker == marker]
        if own:
            found += own
        elif marker in by_marker:
            found.append(Quote(marker, by_marker[marker].chunk, ""))
    return found


def unfiltered(quotes: Sequence[Quote], answer: str) -> list[str]:
    """Texts of quotes, once each, that were not filtered with the answer they belong to.

    Args:
        quotes: Quotes.
        answer: As it was filtered; a quote that stands in it unchanged was filtered with it.
    """
    texts = dict.fromkeys(quote.text for quote in quotes)
    return [text for text in texts if flat(text) not in answer]


def pages(quote: Quote) -> tuple[int, int]:
    """First and last page the quote can stand on; equal when it is known.

    A page ends at an empty line of the text. In a chunk that goes over a page's end, a quote with
    no empty line between it and the chunk's beginning stands on the first page, one with none
    between it and the chunk's end on the last.
    """
    chunk = quote.chunk
    first, last = chunk.location.page, chunk.location.page_end
    start = chunk.text.find(quote.text) if quote.text else -1
    if start < 0 or last <= first:
        return first, last
    if not _GAP.search(chunk.text, 0, start + len(quote.text)):
        return first, first
    if not _GAP.search(chunk.text, start):
        return last, last
    return first, last


def beside(chunk: Chunk) -> list[str]:
    """Ids of the chunks before and after one, as far as there can be any."""
    return [
        f"{chunk.document_id}.{chunk.version}.{ordinal}"
        for ordinal in (chunk.ordinal - 1, chunk.ordinal + 1)
        if ordinal >= 0
    ]


def locate(quote: Quote, others: Mapping[str, Chunk]) -> Location:
    """Where the quote stands: its own characters, and its page as far as it can be known.

    Args:
        quote: Words of a chunk.
        others: Chunks beside it, by id. They overlap it, and where one lies on a single page, so
            do the characters it shares with the quote's chunk.
    """
    chunk = quote.chunk
    inside = chunk.text.find(quote.text) if quote.text else -1
    if inside < 0:
        return chunk.location
    start = chunk.location.start + inside
    end = start + len(quote.text)
    first, last = pages(quote)
    if first < last:
        for name in beside(chunk):
            other = others.get(name)
            if other is None or other.location.page != other.location.page_end:
                continue
            if other.location.start <= start and end <= other.location.end:
                first = last = other.location.page
    return replace(chunk.location, start=start, end=end, page=first, page_end=last)


def cite(
    quotes: Sequence[Quote],
    locations: Sequence[Location],
    shown: Sequence[str],
    supported: Mapping[str, bool],
) -> tuple[Citation, ...]:
    """Citations in the order of their markers in the answer.

    Args:
        quotes: Quotes.
        locations: Where each stands.
        shown: Text of each as it may leave the mesh.
        supported: Whether the sentences that use a marker are supported by it.
    """
    return tuple(
        Citation(
            marker=quote.marker,
            chunk_id=quote.chunk.chunk_id,
            document_id=quote.chunk.document_id,
            title=quote.chunk.title,
            location=location,
            quote=text,
            supported=supported.get(quote.marker, False),
        )
        for quote, location, text in zip(quotes, locations, shown, strict=True)
    )


def sources_of(quotes: Sequence[Quote], passages: Sequence[Passage]) -> dict[str, str]:
    """Text a cited sentence may rest on, by marker: title, headings and the chunk."""
    cited = {quote.marker for quote in quotes}
    return {passage.marker: _source(passage) for passage in passages if passage.marker in cited}


def _source(passage: Passage) -> str:
    chunk = passage.chunk
    return "\n".join([chunk.title, *chunk.location.headings, chunk.text])


def supported(answer: str, sentences: Sequence[Sentence]) -> dict[str, bool]:
    """Per marker, whether every sentence that uses it is supported by it."""
    verdicts: dict[str, bool] = {}
    for sentence in sentences:
        for marker in used_markers(answer[sentence.start : sentence.end]):
            holds = sentence.supported and marker in sentence.markers
            verdicts[marker] = verdicts.get(marker, True) and holds
    return verdicts
