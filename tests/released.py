"""The contracts of the last release, beside today's in one process.

`protos/released/v1.binpb` is the image that `make release-protos` wrote. Its messages are made
in a descriptor pool of their own: generated modules of two releases would claim the same names
in protobuf's only pool. What travels is the same: a generated `_pb2` holds such descriptors, a
generated stub such paths.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tools.contracts import BASELINE


def kind(method: MethodDescriptor) -> str:
    """What gRPC calls this kind of RPC: `unary_stream`."""
    ways = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if streams else "unary" for streams in ways)


class Release:
    """The services and messages of an image.

    Args:
        image: A `FileDescriptorSet` with its imports.
    """

    def __init__(self, image: Path = BASELINE) -> None:
        contents = FileDescriptorSet.FromString(image.read_bytes())
        self._pool = DescriptorPool()
        for file in contents.file:
            self._pool.Add(file)  # type: ignore[no-untyped-call]
        self.services: dict[str, ServiceDescriptor] = {
            f"{file.package}.{service.name}": self._pool.FindServiceByName(
                f"{file.package}.{service.name}"
            )
            for file in contents.file
            for service in file.service
        }
        """By full name, `citemesh.retrieval.v1.RetrievalService`."""
        self.methods: dict[str, MethodDescriptor] = {
            f"/{name}/{method.name}": method
            for name, service in self.services.items()
            for method in service.methods
        }
        """By path, `/citemesh.retrieval.v1.RetrievalService/Search`."""

    def message(self, name: str, **fields: Any) -> Any:
        """A message by its name below `citemesh.`: `message("retrieval.v1.SearchRequest")`."""
        found = self._pool.FindMessageTypeByName(f"citemesh.{name}")
        return GetMessageClass(found)(**fields)

    def stub(self, channel: grpc.aio.Channel, service: str) -> Stub:
        """What a client of that release calls a service, by its full name, with."""
        return Stub(channel, self.services[service])

    def handlers(self, service: str, servicer: Any) -> grpc.GenericRpcHandler[Any, Any]:
        """What a server of that release serves; RPCs the servicer lacks are UNIMPLEMENTED."""
        described = self.services[service]
        return grpc.method_handlers_generic_handler(
            described.full_name,
            {
                method.name: _handler(method, getattr(servicer, method.name))
                for method in described.methods
                if hasattr(servicer, method.name)
            },
        )

    def understood(self, method: str, message: bytes, *, request: bool) -> bytes:
        """A message without what that release does not know."""
        described = self.methods[method]
        kind_of = described.input_type if request else described.output_type
        parsed: Message = GetMessageClass(kind_of).FromString(message)
        parsed.DiscardUnknownFields()  # type: ignore[no-untyped-call]
        return parsed.SerializeToString()


class Stub:
    """One attribute an RPC, as a generated stub has them."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            call = getattr(channel, kind(method))(
                f"/{service.full_name}/{method.name}",
                request_serializer=_serialize,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"that release has no RPC {name}")


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _handler(method: MethodDescriptor, behaviour: Any) -> grpc.RpcMethodHandler[Any, Any]:
    make = getattr(grpc, f"{kind(method)}_rpc_method_handler")
    made: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=_serialize,
    )
    return made
