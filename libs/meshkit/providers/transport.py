"""What broke below HTTP: found in the chain of causes, whichever client library it was.

The SDKs bring httpx or its fork httpx2, both over aiohttp here, so their exceptions are known by
name; and an SDK wraps them in its own, sometimes twice.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence, Set

from meshkit.providers.errors import (
    MalformedResponse,
    NetworkFailed,
    ProviderError,
    ServerFailed,
    StreamTruncated,
    Target,
    TimedOut,
)

CLIENTS = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests"})
CARRIER = "aiohttp"
"""What the client libraries' requests go over. Their bridge to it translates its exceptions
loosely: to it a refused connection or a wrong certificate is a `ConnectTimeout`."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def unusable(error: BaseException, target: Target) -> ProviderError:
    """The error of an answer that an SDK could not read."""
    return MalformedResponse(target, code=type(error).__name__)


def without_an_answer(error: BaseException, target: Target) -> ProviderError:
    """What an SDK's exception means that knows of no answer: the connection's error, or theirs."""
    return transport_error(error, target) or ServerFailed(target, code=type(error).__name__)


def transport_error(error: BaseException, target: Target) -> ProviderError | None:
    """The error of the connection behind an SDK's exception; None when there is none."""
    links = list(chain(error))
    # What broke is known best where it broke.
    names = _names(links, {CARRIER}) or _names(links, CLIENTS)
    code = next((found for link in links if (found := _code(link))), "")
    if names & {"ConnectTimeout", "ConnectionTimeoutError"}:
        return NetworkFailed(target, code="connect_timeout")
    if code:
        return NetworkFailed(target, code=code)
    if "ClientPayloadError" in names:
        # The body ended before its announced end; a reset is told only in the message.
        reset = any("ConnectionResetError" in str(link) for link in links)
        return NetworkFailed(target, code="reset") if reset else StreamTruncated(target)
    if "RemoteProtocolError" in names:
        # The same without a reset, or no answer came at all.
        begun = any("incomplete" in str(link) or "body" in str(link) for link in links)
        return StreamTruncated(target) if begun else NetworkFailed(target, code="disconnected")
    if "ServerDisconnectedError" in names:
        return NetworkFailed(target, code="disconnected")
    if "TimeoutException" in names or any(isinstance(link, TimeoutError) for link in links):
        return TimedOut(target)
    if names & {"TransportError", "ClientError"} or any(isinstance(e, OSError) for e in links):
        return NetworkFailed(target, code="connection")
    return None


def _names(links: Sequence[BaseException], libraries: Set[str]) -> set[str]:
    """Names of the classes of these libraries that exceptions belong to."""
    return {
        cls.__name__
        for link in links
        for cls in type(link).__mro__
        if cls.__module__.partition(".")[0] in libraries
    }


def _code(error: BaseException) -> str:
    match error:
        case ssl.SSLError():
            return "tls"
        case socket.gaierror():
            return "dns"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case _:
            return ""
