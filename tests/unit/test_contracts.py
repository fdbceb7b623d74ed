"""Every contract keeps the promises that all of them make."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import protovalidate
import pytest
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from citemesh._validate import validate_pb2
from meshkit.components import COMPONENTS, OPERATIONS
from tools import contracts

SERVICES = (
    "embedding",
    "generation",
    "guardrail",
    "ingestion",
    "operations",
    "rerank",
    "retrieval",
)

MUTATIONS = ("Delete", "Rebuild", "Record", "Reprocess", "Switch", "Upload")
"""First words of RPCs that change something a caller would notice twice."""

IDEMPOTENT_BY_NATURE = {
    "ActivateVersion": "the document's lease epoch orders it",
    "BuildSpace": "a space that is being filled goes on being filled",
    "CreateSpace": "the same name is the same space",
    "DropSpace": "a space is dropped once",
    "IndexChunks": "a chunk's id is its place",
    "PurgeProject": "an empty project stays empty",
    "PauseSpace": "a space that is paused stays paused",
    "ReconcileLexicalIndex": "what agrees is left alone",
    "ResetBreakers": "a closed breaker stays closed",
    "SetSpaceState": "the same state is the same state",
}
"""RPCs that change something and need no request_id, and why."""

READS = (
    *("Answer", "Check", "Embed", "Export", "Filter", "Generate", "Get", "List"),
    *("Read", "Rerank", "Scan", "Search", "Watch"),
)


def services() -> Iterator[ServiceDescriptor]:
    """The one service of each contract."""
    for name in SERVICES:
        module = importlib.import_module(f"citemesh.{name}.v1.{name}_service_pb2")
        yield module.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]


def methods() -> list[MethodDescriptor]:
    return [method for service in services() for method in service.methods]


def request_of(method: MethodDescriptor) -> Message:
    return GetMessageClass(method.input_type)()


def reachable(message: Descriptor) -> set[Descriptor]:
    """A message and all messages in it, of our own contracts."""
    found: set[Descriptor] = set()
    waiting = [message]
    while waiting:
        current = waiting.pop()
        if current in found or not current.full_name.startswith("citemesh."):
            continue
        found.add(current)
        waiting += [field.message_type for field in current.fields if field.message_type]
    return found


def has_rule(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().HasExtension(validate_pb2.field))


def is_bounded(field: FieldDescriptor) -> bool:
    """Whether the field cannot be of any length a caller likes.

    Numbers and flags cannot; a field in a `oneof` or of a message type is judged by
    what is inside it.
    """
    texts = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return has_rule(field) or not (texts or field.is_repeated)


def method_id(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@pytest.mark.parametrize("method", methods(), ids=method_id)
def test_the_rules_of_every_request_compile(method: MethodDescriptor) -> None:
    for message in reachable(method.input_type):
        # An empty message may well be wrong: that is the rules at work. A rule that does
        # not compile raises CompilationError, which is not let pass.
        with contextlib.suppress(protovalidate.ValidationError):
            protovalidate.validate(GetMessageClass(message)())


@pytest.mark.parametrize("method", methods(), ids=method_id)
def test_no_request_holds_a_text_or_a_list_without_a_limit(method: MethodDescriptor) -> None:
    unbounded = [
        field.full_name
        for message in reachable(method.input_type)
        if not message.GetOptions().map_entry
        for field in message.fields
        if not is_bounded(field)
    ]
    assert unbounded == []


@pytest.mark.parametrize("method", methods(), ids=method_id)
def test_every_rpc_is_a_read_or_can_be_repeated_without_harm(method: MethodDescriptor) -> None:
    if method.name in IDEMPOTENT_BY_NATURE or method.name.startswith(READS):
        return
    assert method.name.startswith(MUTATIONS) or method.name == "RemoveDocument"
    carriers = [m for m in reachable(method.input_type) if "request_id" in m.fields_by_name]
    assert carriers, "a mutation needs a request_id or a reason in IDEMPOTENT_BY_NATURE"
    for carrier in carriers:
        rule = carrier.fields_by_name["request_id"].GetOptions().Extensions[validate_pb2.field]
        assert (rule.string.min_len, rule.string.max_len) == (8, 128)


@pytest.mark.parametrize("method", methods(), ids=method_id)
def test_every_list_comes_in_pages(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    if "page_token" in fields or "page_size" in fields:
        assert {"page_token", "page_size"} <= set(fields)
        assert "next_page_token" in method.output_type.fields_by_name


@pytest.mark.parametrize("method", methods(), ids=method_id)
def test_requests_and_responses_belong_to_one_rpc(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"


@pytest.mark.parametrize("service", list(services()), ids=lambda service: service.name)
def test_every_rpc_can_be_called_through_the_package(service: ServiceDescriptor) -> None:
    package = importlib.import_module(service.file.package)
    assert hasattr(package, f"{service.name}AsyncStub")
    assert hasattr(package, f"add_{service.name}Servicer_to_server")
    for method in service.methods:
        assert hasattr(package, method.input_type.name)
        assert hasattr(package, method.output_type.name)


def test_responses_that_a_model_made_say_what_was_used() -> None:
    spending = {
        "citemesh.embedding.v1.EmbedResponse",
        "citemesh.generation.v1.DoneEvent",
        "citemesh.generation.v1.GenerateDone",
        "citemesh.rerank.v1.RerankResponse",
        "citemesh.retrieval.v1.SearchResponse",
    }
    messages = {m.full_name: m for method in methods() for m in reachable(method.output_type)}
    for name in spending:
        usage = messages[name].fields_by_name["usage"]
        assert usage.message_type.full_name == "citemesh.usage.v1.Usage"


def test_every_component_serves_a_contract_that_exists() -> None:
    served = {c.grpc_service for c in COMPONENTS if c.grpc_service}
    assert served | {OPERATIONS} == {service.full_name for service in services()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All contracts with their comments, as buf reads them."""
    target = tmp_path_factory.mktemp("contracts") / "contracts.binpb"
    contracts.build_image(target)
    return target


def change_search(image: Path, target: Path, change: Callable[[FileDescriptorProto], None]) -> Path:
    """Writes the image with something done to retrieval's contract."""
    contents = FileDescriptorSet.FromString(image.read_bytes())
    change(next(file for file in contents.file if file.name.endswith("retrieval_service.proto")))
    target.write_bytes(contents.SerializeToString())
    return target


def test_buf_refuses_a_contract_that_lost_a_comment(image: Path, tmp_path: Path) -> None:
    def silence(file: FileDescriptorProto) -> None:
        for location in file.source_code_info.location:
            location.ClearField("leading_comments")

    assert contracts.lint(image)
    assert not contracts.lint(change_search(image, tmp_path / "silent.binpb", silence))


def test_buf_refuses_a_contract_that_lost_a_field(image: Path, tmp_path: Path) -> None:
    def lose_bypass_cache(file: FileDescriptorProto) -> None:
        request = next(m for m in file.message_type if m.name == "SearchRequest")
        [lost] = [field for field in request.field if field.name == "bypass_cache"]
        request.field.remove(lost)

    assert contracts.compatible(image, contracts.BASELINE)
    broken = change_search(image, tmp_path / "broken.binpb", lose_bypass_cache)
    assert not contracts.compatible(broken, contracts.BASELINE)
