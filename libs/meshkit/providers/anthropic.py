"""Anthropic: its client, and what its errors mean."""

from __future__ import annotations

from json import JSONDecodeError

import anthropic

from meshkit.providers.errors import (
    AccountBlocked,
    InvalidRequest,
    KeyRejected,
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
from meshkit.providers.settings import Access
from meshkit.providers.transport import unusable, without_an_answer

PROVIDER = "anthropic"

BY_TYPE: dict[str, type[ProviderError]] = {
    "authentication_error": KeyRejected,
    "permission_error": AccountBlocked,
    "billing_error": AccountBlocked,
    "not_found_error": ModelUnknown,
    "rate_limit_error": RateLimited,
    "overloaded_error": Overloaded,
    "timeout_error": TimedOut,
    "api_error": ServerFailed,
    "invalid_request_error": InvalidRequest,
    "request_too_large": InvalidRequest,
}
"""By `error.type`, which also an error inside a stream has, whose status was 200."""
BY_STATUS: dict[int, type[ProviderError]] = {
    401: KeyRejected,
    402: AccountBlocked,
    403: AccountBlocked,
    404: ModelUnknown,
    408: TimedOut,
    429: RateLimited,
    503: Overloaded,
    504: TimedOut,
    529: Overloaded,
}
"""For answers of something in between that do not have Anthropic's body."""


def open_client(access: Access) -> anthropic.AsyncAnthropic:
    """The SDK's client: our address, our key, no retries and no spans of its own.

    Over aiohttp, whose parser is compiled: a text that streams takes half as long to read.
    """
    return anthropic.AsyncAnthropic(
        api_key=access.key,
        base_url=access.base_url or None,
        max_retries=0,
        open_telemetry=False,
        http_client=anthropic.DefaultAioHttpClient(),
    )


def classify(error: Exception, target: Target) -> ProviderError:
    """What an exception of the SDK means."""
    if isinstance(error, anthropic.APIStatusError):
        return _from_status(error, target)
    if isinstance(error, anthropic.APIResponseValidationError | JSONDecodeError | ValueError):
        return unusable(error, target)
    if isinstance(error, anthropic.APITimeoutError) and error.__cause__ is None:
        return TimedOut(target)
    return without_an_answer(error, target)


def _from_status(error: anthropic.APIStatusError, target: Target) -> ProviderError:
    status, name = error.status_code, str(error.type or "")
    fallback = ServerFailed if status >= 500 or status < 400 else InvalidRequest
    cls = BY_TYPE.get(name) or BY_STATUS.get(status, fallback)
    code = error.error_code or name
    if cls is RateLimited and "spend_limit" in code:
        cls = QuotaExhausted
    # The one error of an empty account that comes as an invalid request.
    if cls is InvalidRequest and "credit balance is too low" in (error.api_message or ""):
        cls, code = AccountBlocked, "credit_balance"
    return cls(
        target,
        status=status,
        code=code,
        retry_after=from_headers(error.response.headers),
        call_id=error.request_id or "",
    )
