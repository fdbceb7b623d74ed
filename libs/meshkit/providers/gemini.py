"""Gemini: its client, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, timezone
from json import JSONDecodeError
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx2
from google import genai
from google.genai import errors, types
from google.genai.models import AsyncModels
from httpx_aiohttp.httpx2 import Httpx2AiohttpClient
from pydantic import ValidationError

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
from meshkit.providers.retry_after import from_duration
from meshkit.providers.settings import CONNECTIONS, Access
from meshkit.providers.transport import unusable, without_an_answer

PROVIDER = "gemini"


class Client:
    """The SDK with our address, our key, no retries of its own, and connections we can close.

    Over aiohttp, whose parser is compiled, but below httpx2 and not as the SDK would go over it.
    The SDK makes an object of four layers of every event of a stream, and a stream of its is
    only closed by garbage collection; who reads one takes the response instead (`handed_over`).
    """

    def __init__(self, access: Access) -> None:
        self._http = Httpx2AiohttpClient(
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=CONNECTIONS),
            event_hooks={"response": [_hand_over]},
        )
        self._sdk = genai.Client(
            api_key=access.key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=access.base_url or None,
                httpx_async_client=self._http,
                # Without this the SDK sleeps and tries again when aiohttp happens to be installed.
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    @property
    def models(self) -> AsyncModels:
        """What can be called."""
        return self._sdk.aio.models

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.aclose()
        self._sdk.close()


_responses: ContextVar[list[httpx2.Response] | None] = ContextVar("gemini_responses", default=None)


async def _hand_over(response: httpx2.Response) -> None:
    taken = _responses.get()
    if taken is not None and response.is_success:
        taken.append(
            httpx2.Response(
                response.status_code,
                headers=response.headers,
                stream=response.stream,
                request=response.request,
                extensions=response.extensions,
            )
        )
        response.stream = httpx2.ByteStream(b"")


@contextmanager
def handed_over() -> Iterator[list[httpx2.Response]]:
    """Successful responses to calls inside the block; to the SDK they have no body.

    The block must not hold a `yield`: the next step may be another task's. Who has one closes it.
    """
    found: list[httpx2.Response] = []
    token = _responses.set(found)
    try:
        yield found
    finally:
        _responses.reset(token)


def options(seconds: float) -> types.HttpOptions:
    """Options of one call that may take so long; the SDK also tells the server."""
    return types.HttpOptions(timeout=max(1, int(seconds * 1000)))


def classify(error: Exception, target: Target) -> ProviderError:
    """What an exception of the SDK means."""
    if isinstance(error, errors.APIError):
        return from_body(error.code, error.details, target)
    if isinstance(
        error, errors.UnknownApiResponseError | JSONDecodeError | ValidationError | ValueError
    ):
        return unusable(error, target)
    return without_an_answer(error, target)


def from_body(status: int, body: object, target: Target) -> ProviderError:
    """What a status and Google's error body mean.

    Args:
        status: HTTP status, or the code in the body of an error inside a stream.
        body: `{"error": {"code", "message", "status", "details"}}`.
        target: What was called.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    if not isinstance(error, Mapping):
        error = {}
    name = str(error.get("status") or "")
    message = str(error.get("message") or "").lower()
    details = [d for d in error.get("details") or () if isinstance(d, Mapping)]
    reasons = {str(d["reason"]) for d in details if "reason" in d}
    code = next(iter(sorted(reasons)), name)
    if status == 429:
        return _limited(details, code, target)
    if status == 401 or "API_KEY_INVALID" in reasons or "api key not valid" in message:
        return KeyRejected(target, status=status, code=code)
    if status == 403 and "leaked" in message:
        return KeyRejected(target, status=status, code="LEAKED")
    if status == 403 or name == "FAILED_PRECONDITION":
        return AccountBlocked(target, status=status, code=code)
    if status == 404:
        return ModelUnknown(target, status=status, code=code)
    if status in (408, 504):
        return TimedOut(target, status=status, code=code)
    if status == 503:
        return Overloaded(target, status=status, code=code, retry_after=_retry_delay(details))
    if 400 <= status < 500:
        return InvalidRequest(target, status=status, code=code)
    return ServerFailed(target, status=status, code=code)


def _limited(details: list[Mapping[str, Any]], code: str, target: Target) -> ProviderError:
    quotas = [str(violation.get("quotaId", "")) for violation in _violations(details)]
    daily = [quota for quota in quotas if "PerDay" in quota]
    if daily:
        # The delay that comes with it is the one of a minute's quota.
        wait = seconds_until_reset(datetime.now(UTC))
        return QuotaExhausted(target, status=429, code=daily[0], retry_after=wait)
    code = next(iter(quotas), code)
    return RateLimited(target, status=429, code=code, retry_after=_retry_delay(details))


def _violations(details: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for detail in details:
        for violation in detail.get("violations") or ():
            if isinstance(violation, Mapping):
                yield violation


def _retry_delay(details: list[Mapping[str, Any]]) -> float | None:
    found = (from_duration(detail.get("retryDelay")) for detail in details)
    return next((seconds for seconds in found if seconds is not None), None)


def seconds_until_reset(now: datetime) -> float:
    """Until a day's quota is full again: at midnight in California."""
    try:
        zone: timezone | ZoneInfo = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        # Without a time zone database: at most an hour too late.
        zone = timezone(timedelta(hours=-8))
    local = now.astimezone(zone)
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight.astimezone(UTC) - now).total_seconds()
