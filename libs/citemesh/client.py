"""One small async client: an API key in, typed stubs out.

    async with citemesh.connect("http://127.0.0.1:8080", api_key) as mesh:
        async for event in mesh.ask("How many days of leave do we get?"):
            print(event.delta.text, end="")
        hits = await mesh.retrieval.Search(SearchRequest(query="leave"))

The API key goes to the gateway only, in exchange for a signed context of a few
minutes; the client renews it before it ends. Calls then go straight to the
services, through the stubs of `citemesh.<service>.v1`.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import grpc

from citemesh.embedding.v1 import EmbeddingServiceAsyncStub
from citemesh.generation.v1 import AnswerEvent, AnswerRequest, GenerationServiceAsyncStub
from citemesh.guardrail.v1 import GuardrailServiceAsyncStub
from citemesh.ingestion.v1 import IngestionServiceAsyncStub
from citemesh.rerank.v1 import RerankServiceAsyncStub
from citemesh.retrieval.v1 import RetrievalServiceAsyncStub

CONTEXT_HEADER = "x-citemesh-context"
RENEW_SECONDS = 60.0
"""A context with less life than this is renewed before a call."""
OPTIONS = [("grpc.enable_http_proxy", 0)]


class TokenRefused(RuntimeError):
    """The gateway gave no context; `reason` and `request_id` are its own words."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.reason = str(problem.get("reason", "UNKNOWN"))
        self.request_id = str(problem.get("request_id", ""))
        super().__init__(f"{self.reason}: {problem.get('detail', '')} ({self.request_id})")


class Mesh:
    """Stubs of every service, with the signed context added to each call.

    Use it through `connect`. Services whose address the gateway does not name
    and `addresses` does not give raise `LookupError` when they are used.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        addresses: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._credentials = credentials
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._addresses = dict(addresses or {})
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._token = ""
        self._expires = float("-inf")
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Mesh:
        await self.token()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def token(self) -> str:
        """The signed context, renewed when it is about to end.

        Raises:
            TokenRefused: when the gateway refuses the key.
            OSError: when the gateway cannot be reached.
        """
        async with self._renewing:
            # By a clock that nobody sets: this machine's may be wrong.
            if time.monotonic() > self._expires - RENEW_SECONDS:
                answer = await asyncio.to_thread(self._exchange)
                self._token = answer["token"]
                # A gateway of before says the time of day alone.
                seconds = answer.get("expires_in", float(answer["expires_at"]) - time.time())
                self._expires = time.monotonic() + float(seconds)
                self._addresses = {**answer.get("services", {}), **self._addresses}
        return self._token

    def _exchange(self) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/v1/token",
            method="POST",
            data=b"",
            headers={"Authorization": f"Bearer {self._api_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            try:
                problem = json.load(error)
            except ValueError:
                problem = {}
            raise TokenRefused(error.code, problem) from None
        return answer

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            if service not in self._addresses:
                raise LookupError(f"No address of {service} is known; pass addresses= to connect.")
            address, interceptors = self._addresses[service], _interceptors(self)
            if self._credentials is None:
                self._channels[service] = grpc.aio.insecure_channel(
                    address, options=OPTIONS, interceptors=interceptors
                )
            else:
                self._channels[service] = grpc.aio.secure_channel(
                    address, self._credentials, options=OPTIONS, interceptors=interceptors
                )
        return self._channels[service]

    @property
    def ingestion(self) -> IngestionServiceAsyncStub:
        """Stub of the ingestion service."""
        return IngestionServiceAsyncStub(self._channel("ingestion"))

    @property
    def retrieval(self) -> RetrievalServiceAsyncStub:
        """Stub of the retrieval service."""
        return RetrievalServiceAsyncStub(self._channel("retrieval"))

    @property
    def generation(self) -> GenerationServiceAsyncStub:
        """Stub of the generation service."""
        return GenerationServiceAsyncStub(self._channel("generation"))

    @property
    def embedding(self) -> EmbeddingServiceAsyncStub:
        """Stub of the embedding service."""
        return EmbeddingServiceAsyncStub(self._channel("embedding"))

    @property
    def rerank(self) -> RerankServiceAsyncStub:
        """Stub of the rerank service."""
        return RerankServiceAsyncStub(self._channel("rerank"))

    @property
    def guardrail(self) -> GuardrailServiceAsyncStub:
        """Stub of the guardrail service."""
        return GuardrailServiceAsyncStub(self._channel("guardrail"))

    async def ask(
        self, question: str, *, conversation_id: str = "", timeout: float = 60.0
    ) -> AsyncIterator[AnswerEvent]:
        """Asks a question and yields the answer's events as they come.

        Args:
            question: 1 to 8,192 characters.
            conversation_id: Conversation to continue; empty for a question by itself.
            timeout: Seconds the whole answer may take.

        Raises:
            grpc.aio.AioRpcError: with the mesh's status when it cannot be answered.
        """
        request = AnswerRequest(question=question, conversation_id=conversation_id)
        call = self.generation.Answer(request, timeout=timeout)
        try:
            async for message in call:
                yield message.event
        finally:
            call.cancel()


def connect(
    url: str,
    api_key: str,
    *,
    addresses: Mapping[str, str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> Mesh:
    """A client of the mesh behind the gateway at `url`, for `async with`.

    Args:
        url: Base address of the gateway.
        api_key: API key with the scopes the calls need.
        addresses: gRPC address per service, where the gateway's own list does
            not fit the caller's network.
        credentials: For services that speak TLS (`grpc.ssl_channel_credentials`).
    """
    return Mesh(url, api_key, addresses, credentials)


async def _with_context(mesh: Mesh, details: Any) -> Any:
    # A copy: the caller may use its own for the next call.
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add(CONTEXT_HEADER, await mesh.token())
    return details._replace(metadata=metadata)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(await _with_context(self._mesh, details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(await _with_context(self._mesh, details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(await _with_context(self._mesh, details), requests)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(await _with_context(self._mesh, details), requests)


def _interceptors(mesh: Mesh) -> list[grpc.aio.ClientInterceptor]:
    # One class a kind of call: aio refuses an interceptor that is several kinds.
    return [_UnaryUnary(mesh), _UnaryStream(mesh), _StreamUnary(mesh), _StreamStream(mesh)]
