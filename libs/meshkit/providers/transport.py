"""What broke below HTTP: found in the chain of causes, whichever client library it was.

The SDKs bring httpx or its fork httpx2, so their exceptions are known by name; and an SDK
wraps them in its own, sometimes twice.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

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
    names = {name for link in links for name in _client_names(link)}
    code = next((found for link in links if (found := _code(link))), "")
    if "ConnectTimeout" in names:
        return NetworkFailed(target, code="connect_timeout")
    if "RemoteProtocolError" in names and not code:
        # The body ended before its end was announced, or no answer came at all.
        begun = any("incomplete" in str(link) or "body" in str(link) for link in links)
        return StreamTruncated(target) if begun else NetworkFailed(target, code="disconnected")
    if code:
        return NetworkFailed(target, code=code)
    if "TimeoutException" in names or any(isinstance(link, TimeoutError) for link in links):
        return TimedOut(target)
    if "TransportError" in names or any(isinstance(link, OSError) for link in links):
        return NetworkFailed(target, code="connection")
    return None


def _client_names(error: BaseException) -> set[str]:
    """Names of the classes of a client library that an exception belongs to."""
    return {
        cls.__name__ for cls in type(error).__mro__ if cls.__module__.partition(".")[0] in CLIENTS
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
