"""Text of an e-mail: its headers, its body, and what is attached, through the standard library."""

from __future__ import annotations

import email.policy
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser

from services.ingestion.extraction import decoding, html
from services.ingestion.extraction.model import (
    HEADING_CHARACTERS,
    Extracted,
    FileRefused,
    Heading,
    Section,
    Source,
    TextBuilder,
)
from services.ingestion.extraction.tools import Tools
from services.ingestion.file_names import file_name

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_MOST_ATTACHMENTS = 100
_DEEPEST = 3
_DEEPEST_HEADING = 9


def extract(source: Source, tools: Tools) -> Extracted:
    """Headers and body, then a section per attachment that can be read."""
    with source.open() as file:
        message = BytesParser(_class=EmailMessage, policy=email.policy.default).parse(file)
    out = TextBuilder()
    warnings: list[str] = []
    subject = _header(message, "Subject")
    shown = [(name, _header(message, name)) for name in _SHOWN]
    out.add_block("\n".join(f"{name}: {value}" for name, value in shown if value))
    body = _body(message)
    if body.text:
        _insert(body, out, level=0)
    attached = list(_attachments(message))
    for number, (name, content) in enumerate(attached[:_MOST_ATTACHMENTS], start=1):
        try:
            found = _read(Source(content, name), tools)
        except FileRefused as refused:
            warnings.append(f"attachment {number} not read: {refused.reason}")
            continue
        out.add_heading(name, 1)
        start = out.length - len(name)
        _insert(found, out, level=1)
        out.sections.append(Section(start, out.length, name[:HEADING_CHARACTERS]))
    if len(attached) > _MOST_ATTACHMENTS:
        warnings.append(f"only the first {_MOST_ATTACHMENTS} attachments were read")
    return out.extracted(title=subject[:1024], warnings=tuple(warnings))


def _read(source: Source, tools: Tools) -> Extracted:
    """An attachment through whichever reader fits it."""
    from services.ingestion.extraction.reading import read  # which reads e-mails by this module

    if tools.depth >= _DEEPEST:
        raise FileRefused("FILE_TOO_LARGE", "The attachment lies too deep inside of others.")
    return read(source, replace(tools, progress=_unheard, depth=tools.depth + 1))


def _unheard(*_: int) -> None:
    """Takes the progress of an attachment: its pages are not those of the message."""


def _header(message: EmailMessage, name: str) -> str:
    try:
        value = str(message.get(name, ""))
    # The standard library's parser of addresses fails on some broken ones.
    except (ValueError, IndexError, AttributeError, TypeError):
        return ""
    return " ".join(decoding.tidy(value).split())


def _body(message: EmailMessage) -> Extracted:
    try:
        part = message.get_body(("plain", "html"))
    except (AttributeError, KeyError, ValueError):
        part = None
    if part is None:
        return Extracted("")
    content = _content(part)
    if part.get_content_type() == "text/html":
        return html.extract(content)
    return Extracted(decoding.decode(content).strip())


def _content(part: MIMEPart) -> bytes:
    """The part's bytes, a text's as UTF-8."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return b""
    if part.get_content_maintype() != "text":
        return payload
    declared = part.get_content_charset() or ""
    text = decoding.decode(payload, declared=declared)
    if part.get_content_type() == "text/html":
        # What the message says of its encoding counts more than the page's own word.
        return b"\xef\xbb\xbf" + text.encode()
    return text.encode()


def _attachments(message: EmailMessage) -> Iterator[tuple[str, bytes]]:
    try:
        parts = list(message.iter_attachments())
    except (AttributeError, KeyError, ValueError, TypeError):
        return
    for number, part in enumerate(parts, start=1):
        given = part.get_filename()
        name = file_name(given) if given else ""
        if part.get_content_type() == "message/rfc822":
            inner = part.get_payload(0) if part.is_multipart() else None
            content = inner.as_bytes() if isinstance(inner, EmailMessage) else b""
            name = name or f"message {number}.eml"
        else:
            content = _content(part)
            name = name or f"attachment {number}"
        yield name, content


def _insert(found: Extracted, out: TextBuilder, level: int) -> None:
    """Appends a document, its headings `level` deeper."""
    start = out.add_block(found.text)
    out.headings += [
        Heading(
            heading.start + start,
            heading.end + start,
            min(_DEEPEST_HEADING, heading.level + level),
            heading.title,
        )
        for heading in found.headings
    ]
