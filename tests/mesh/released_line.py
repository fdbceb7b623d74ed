"""A hop whose two ends are of different releases, between today's processes.

Each message that passes loses what the last release does not know, as if its sender were of
that release, and gains a field that nobody knows, as if it were of the next. RPCs that the
last release lacks are UNIMPLEMENTED. Health passes untouched: it is nobody's contract.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from meshkit.server import METADATA_BYTES
from tests.released import Release

HEALTH = "/grpc.health.v1.Health/"
TOMORROW = b"\xfa\xf0\x04\x08tomorrow"
"""Field 9999, a string, as it travels."""
OURS = ("x-citemesh-", "traceparent", "tracestate", "baggage")
LARGEST = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]


class ReleasedLine(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """What lies between the callers of a service and the service.

    Args:
        release: The older of the two releases.
        target: Port of the service, asked for at the first call: it is known late.
    """

    def __init__(self, release: Release, target: Callable[[], int]) -> None:
        self._release = release
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._server = grpc.aio.server(options=LARGEST)
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.carried: Counter[str] = Counter()
        """Calls by method."""
        self.refused: Counter[str] = Counter()
        """Calls of RPCs that the last release lacks."""

    async def open(self) -> None:
        """Begins to carry calls."""
        await self._server.start()

    async def close(self) -> None:
        """Ends every call."""
        await self._server.stop(None)
        if self._channel is not None:
            await self._channel.close()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Every RPC as a stream of bytes each way: on the wire a unary one is no different."""
        method = str(handler_call_details.method)
        if not method.startswith(HEALTH) and method not in self._release.methods:
            self.refused[method] += 1
            return None

        async def carry(messages: Any, here: Any) -> None:
            await self._carry(method, messages, here)

        handler: Any = grpc.stream_stream_rpc_method_handler
        made: grpc.RpcMethodHandler[Any, Any] = handler(carry)
        return made

    async def _carry(self, method: str, messages: Any, here: Any) -> None:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"127.0.0.1:{self._target()}", options=LARGEST
            )
        self.carried[method] += 1

        async def asked() -> AsyncIterator[bytes]:
            async for message in messages:
                yield self._altered(method, message, request=True)

        metadata = [(k, v) for k, v in here.invocation_metadata() or () if k.startswith(OURS)]
        there = self._channel.stream_stream(method)(
            asked(), metadata=metadata, timeout=here.time_remaining()
        )
        try:
            async for answer in there:
                await here.write(self._altered(method, answer, request=False))
            code, details = await there.code(), await there.details()
            trailing = tuple(await there.trailing_metadata() or ())
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            trailing = tuple(error.trailing_metadata() or ())
        finally:
            there.cancel()
        if code is not grpc.StatusCode.OK:
            await here.abort(code, details, trailing)
        here.set_trailing_metadata(trailing)

    def _altered(self, method: str, message: bytes, *, request: bool) -> bytes:
        if method.startswith(HEALTH):
            return message
        return self._release.understood(method, message, request=request) + TOMORROW
