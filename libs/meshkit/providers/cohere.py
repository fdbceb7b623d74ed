"""Cohere: its client, and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping

import cohere
import httpx
from cohere.core.api_error import ApiError
from cohere.core.http_sse import SSEError
from cohere.core.parse_error import ParsingError
from cohere.core.request_options import RequestOptions

from meshkit.providers.errors import (
    AccountBlocked,
    ContentBlocked,
    InvalidRequest,
    KeyRejected,
    MalformedResponse,
    ModelUnknown,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
    Target,
    TimedOut,
)
from meshkit.providers.retry_after import from_headers
from meshkit.providers.settings import CONNECTIONS, Access
from meshkit.providers.transport import unusable, without_an_answer

PROVIDER = "cohere"

BY_STATUS: dict[int, type[ProviderError]] = {
    401: KeyRejected,
    402: AccountBlocked,
    403: AccountBlocked,
    404: ModelUnknown,
    408: TimedOut,
    429: RateLimited,
    # "Invalid token": a word in question or answer is on a deny list.
    498: ContentBlocked,
    503: Overloaded,
    504: TimedOut,
}


def open_client(access: Access) -> cohere.AsyncClientV2:
    """The SDK's client: our address, our key, no retries of its own.

    Over aiohttp, whose parser is compiled. The SDK takes it by itself where it happens to be
    installed; said here, it is so everywhere.
    """
    return cohere.AsyncClientV2(
        api_key=access.key,
        base_url=access.base_url or None,
        max_retries=0,
        httpx_client=cohere.DefaultAioHttpClient(limits=httpx.Limits(max_connections=CONNECTIONS)),
        log_warning_experimental_features=False,
    )


async def close(client: cohere.AsyncClientV2) -> None:
    """Closes the connections; the SDK has no other way than leaving it as a context."""
    await client.__aexit__(None, None, None)  # type: ignore[no-untyped-call]


def options(seconds: float) -> RequestOptions:
    """Options of one call that may take so long."""
    return RequestOptions(timeout=max(0.001, seconds), max_retries=0)


def classify(error: Exception, target: Target) -> ProviderError:
    """What an exception of the SDK means."""
    if isinstance(error, ApiError) and error.status_code is not None:
        return _from_status(error.status_code, error, target)
    # The others come from parts that an answer lacks.
    unreadable = (
        ApiError,
        ParsingError,
        SSEError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    )
    if isinstance(error, unreadable):
        return unusable(error, target)
    return without_an_answer(error, target)


def _from_status(status: int, error: ApiError, target: Target) -> ProviderError:
    headers = error.headers or {}
    body = error.body if isinstance(error.body, Mapping) else {}
    message = str(body.get("message", "")).lower()
    if 200 <= status < 300:
        return MalformedResponse(target, status=status)
    cls = BY_STATUS.get(status, ServerFailed if status >= 500 else InvalidRequest)
    # Cohere has no codes: only the sentence tells a month's quota from a minute's.
    if cls is RateLimited and "month" in message:
        cls = QuotaExhausted
    return cls(
        target,
        status=status,
        retry_after=from_headers(headers),
        call_id=str(body.get("id", "")) or headers.get("x-debug-trace-id", ""),
    )
