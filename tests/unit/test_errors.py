"""The error hierarchy survives the wire and leaks nothing."""

from __future__ import annotations

import grpc
import pytest

from meshkit import errors
from meshkit.errors import MeshError, from_rpc_error, from_status, to_status


@pytest.mark.parametrize("cls", errors.BY_KIND.values(), ids=lambda cls: cls.__name__)
def test_every_error_is_itself_again_after_the_wire(cls: type[MeshError]) -> None:
    sent = cls(
        "SOME_REASON",
        "A sentence.",
        metadata={"limit": "5"},
        retry_after=1.5,
        fields={"query": "too long"},
    )
    received = from_status(to_status(sent, "req_1"))
    assert type(received) is cls
    assert received.reason == "SOME_REASON"
    assert received.detail == "A sentence."
    assert received.retry_after == 1.5
    assert received.fields == {"query": "too long"}
    assert received.metadata == {"limit": "5", "request_id": "req_1"}
    assert received.http_status == cls.http_status


def test_a_status_of_another_domain_is_not_taken_for_ours() -> None:
    status = to_status(errors.NotFound("X", "y"))
    status.details[0].value = status.details[0].value.replace(b"citemesh", b"someoneX")
    assert from_status(status) is None


@pytest.mark.parametrize(
    ("code", "cls", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "SERVICE_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Busy, "SERVICE_BUSY"),
        (grpc.StatusCode.UNKNOWN, errors.Internal, "UNKNOWN"),
    ],
)
def test_an_error_that_grpc_raised_by_itself_gets_a_class_and_no_foreign_text(
    code: grpc.StatusCode, cls: type[MeshError], reason: str
) -> None:
    raised = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="password=hunter2"
    )
    error = from_rpc_error(raised)
    assert type(error) is cls
    assert error.reason == reason
    assert "hunter2" not in str(error)
