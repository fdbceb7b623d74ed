"""One client of OpenSearch, and what its errors mean to a search or a write.

The client's own retries are off: a search has a deadline and does without the
lexical list, and a write waits in the outbox. Nothing here is retried in silence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensearchpy import AsyncOpenSearch, AsyncTransport
from opensearchpy.exceptions import (
    ConnectionError as NotConnected,
)
from opensearchpy.exceptions import (
    ConnectionTimeout,
    OpenSearchException,
    TransportError,
)
from opentelemetry.trace import SpanKind

from meshkit.errors import Internal, MeshError, Unavailable
from meshkit.telemetry import span

WRITE_SECONDS = 30.0
"""Longest wait for one request that writes."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where OpenSearch is and how it is spoken to."""

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    connections: int = 10


class IndexMissing(Unavailable):
    """The index is not there: it was never built, or somebody deleted it."""

    def __init__(self) -> None:
        super().__init__(
            "LEXICAL_INDEX_MISSING",
            "The lexical index is being built anew; try again.",
            retry_after=2.0,
        )


class _Traced(AsyncTransport):
    """Requests with a span each, named after what is asked for, without its text."""

    async def perform_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """One request."""
        # `/index/_search` is `_search`; what names an index or a document says less.
        asked = next((part for part in reversed(url.split("/")) if part.startswith("_")), "index")
        operation = asked.removeprefix("_")
        attributes = {
            "db.system.name": "opensearch",
            "db.operation.name": operation,
            "http.request.method": method,
        }
        with span(f"opensearch {operation}", attributes, kind=SpanKind.CLIENT):
            return await super().perform_request(method, url, *args, **kwargs)


def connect(options: Options) -> AsyncOpenSearch:
    """A client; nothing is sent before it is used.

    Raises:
        OSError, ValueError: when a certificate cannot be read or an address makes no sense.
    """
    arguments: dict[str, Any] = {}
    if options.user:
        arguments["http_auth"] = (options.user, options.password)
    if options.bearer_token:
        arguments["headers"] = {"Authorization": f"Bearer {options.bearer_token}"}
    if options.ca_file is not None:
        arguments["ca_certs"] = str(options.ca_file)
    if options.client_certificate is not None:
        arguments["client_cert"] = str(options.client_certificate)
    if options.client_key is not None:
        arguments["client_key"] = str(options.client_key)
    return AsyncOpenSearch(
        hosts=list(options.urls),
        transport_class=_Traced,
        pool_maxsize=options.connections,
        timeout=WRITE_SECONDS,
        max_retries=0,
        retry_on_timeout=False,
        http_compress=True,
        **arguments,
    )


@asynccontextmanager
async def speaking() -> AsyncIterator[None]:
    """Turns the client's exceptions into errors of the mesh.

    Raises:
        Unavailable: whenever trying again later may help.
        Internal: when OpenSearch will never take what it was sent.
    """
    try:
        yield
    except OpenSearchException as error:
        raise meaning(error) from error


def meaning(error: OpenSearchException) -> MeshError:
    """The mesh's error for an exception of the client; no text of a document comes along."""
    if isinstance(error, (NotConnected, ConnectionTimeout)):
        return Unavailable(
            "LEXICAL_UNREACHABLE", "OpenSearch does not answer; try again.", retry_after=2.0
        )
    if isinstance(error, TransportError):
        return refusal(int(error.status_code), str(error.error))
    return refusal(0, type(error).__name__)


def refusal(status: int, kind: str) -> MeshError:
    """The mesh's error for a status of OpenSearch, of a request or of one item of it.

    Args:
        status: HTTP status.
        kind: OpenSearch's name of the error, such as `cluster_block_exception`.
    """
    if status == 404 and kind == "index_not_found_exception":
        return IndexMissing()
    if kind == "cluster_block_exception" or status == 507:
        return Unavailable(
            "LEXICAL_READ_ONLY",
            "OpenSearch takes no writes now: its disk is full or the index is blocked.",
            retry_after=30.0,
        )
    if status == 429 or kind in ("es_rejected_execution_exception", "rejected_execution_exception"):
        return Unavailable(
            "LEXICAL_BUSY", "OpenSearch takes no more work now; try again.", retry_after=2.0
        )
    if status in (401, 403):
        return Unavailable(
            "LEXICAL_REFUSED",
            "OpenSearch refuses this service's credentials; see CITEMESH_OPENSEARCH_USER.",
            retry_after=30.0,
        )
    if status >= 500 or status == 0 or status == 408:
        return Unavailable("LEXICAL_FAILED", "OpenSearch failed; try again.", retry_after=2.0)
    return Internal(
        "LEXICAL_REJECTED",
        f"OpenSearch refused what it was sent ({status} {kind}).",
        metadata={"status": str(status), "kind": kind},
    )
