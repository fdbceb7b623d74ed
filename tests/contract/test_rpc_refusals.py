"""A server that ends a call while its caller still writes is heard with its own words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from meshkit.channel import MeshChannel, streaming
from meshkit.errors import MeshError, Unsupported, to_status

SERVICE = "test.FileService"
PIECE = b"\0" * 65_536
CALLS = 40
"""Without the mending nearly every one of them ended with INTERNAL."""


class Refusing:
    """Takes two messages, then refuses; in threads, because the caller's loop is held still."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.refused = threading.Event()

    def clear(self) -> None:
        self.taken.clear()
        self.refused.clear()

    def upload(self, messages: Iterator[bytes], call: Any) -> bytes:
        call.add_callback(self.refused.set)
        call.send_initial_metadata(())
        next(messages)
        self.taken.set()
        next(messages)
        refusal = to_status(
            Unsupported("FILE_TYPE_UNSUPPORTED", "Files of this type are not read.")
        )
        call.abort_with_status(rpc_status.to_status(refusal))
        raise AssertionError("unreachable: abort raises")

    def filter(self, messages: Iterator[bytes], call: Any) -> Iterator[bytes]:
        yield self.upload(messages, call)

    async def messages(self) -> AsyncIterator[bytes]:
        """More than the server takes; the loop sees nothing of the refusal before the third."""
        yield PIECE
        assert await asyncio.to_thread(self.taken.wait, 30)
        yield PIECE
        assert self.refused.wait(30)
        for _ in range(3):
            yield PIECE


@pytest.fixture
def refusing() -> Refusing:
    return Refusing()


@pytest.fixture
async def channel(refusing: Refusing) -> AsyncIterator[MeshChannel]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {
        "Upload": grpc.stream_unary_rpc_method_handler(refusing.upload),
        "Filter": grpc.stream_stream_rpc_method_handler(refusing.filter),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    known = health.HealthServicer()
    known.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(known, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    async with MeshChannel(f"127.0.0.1:{port}", SERVICE) as channel:
        yield channel
    await asyncio.to_thread(server.stop(None).wait)


async def test_a_refusal_in_the_middle_of_an_upload_keeps_its_reason(
    channel: MeshChannel, refusing: Refusing
) -> None:
    upload = channel.stream_unary(f"/{SERVICE}/Upload")
    for _ in range(CALLS):
        refusing.clear()
        with pytest.raises(Unsupported) as caught:
            await upload(refusing.messages(), timeout=30)
        assert caught.value.reason == "FILE_TYPE_UNSUPPORTED"


@pytest.mark.parametrize("reader", [False, True], ids=["met by a write", "met by a read"])
async def test_a_refusal_in_the_middle_of_a_stream_keeps_its_reason(
    channel: MeshChannel, refusing: Refusing, reader: bool
) -> None:
    open_stream = channel.stream_stream(f"/{SERVICE}/Filter")
    for _ in range(CALLS):
        refusing.clear()
        with pytest.raises(MeshError) as caught:
            async with streaming(open_stream(timeout=30)) as stream:
                reading = asyncio.ensure_future(stream.read()) if reader else None
                async for message in refusing.messages():
                    await stream.write(message)
                await (reading or stream.read())
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)
        assert caught.value.reason == "FILE_TYPE_UNSUPPORTED"
