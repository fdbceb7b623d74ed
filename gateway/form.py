"""A multipart form, read as it arrives: its parts as events, never the whole of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from meshkit.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class PartBegun:
    """A part begins; `file_name` is None for a plain field."""

    name: str
    file_name: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    """The next bytes of the part."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is complete."""


FormEvent = PartBegun | PartData | PartEnded


def boundary_of(content_type: str) -> bytes:
    """The boundary a content type names.

    Raises:
        InvalidInput: FORM_INVALID when it is no multipart form.
    """
    kind, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise InvalidInput(
            "FORM_INVALID", "Send a form of type multipart/form-data with a part named 'file'."
        )
    return boundary


class FormParser:
    """Turns bytes into events, by the push parser of python-multipart."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[FormEvent] = []
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self.complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": lambda: self._events.append(PartEnded()),
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> list[FormEvent]:
        """The events that these bytes complete.

        Raises:
            InvalidInput: FORM_INVALID.
        """
        self._events = []
        try:
            self._parser.write(data)
        except FormParserError:
            raise _broken() from None
        return self._events

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if name is None:
            raise _broken()
        file_name = options.get(b"filename")
        self._events.append(PartBegun(_text(name), None if file_name is None else _text(file_name)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _on_end(self) -> None:
        self.complete = True


async def read_form(body: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[FormEvent]:
    """The events of a form.

    Raises:
        InvalidInput: FORM_INVALID, also when the body ends in the middle.
    """
    parser = FormParser(boundary)
    async for data in body:
        if data:
            for found in parser.feed(data):
                yield found
    if not parser.complete:
        raise InvalidInput("FORM_INCOMPLETE", "The form ends before its closing boundary.")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _broken() -> InvalidInput:
    return InvalidInput("FORM_INVALID", "The body is no well-formed multipart form.")
