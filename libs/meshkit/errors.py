"""Every error the mesh can answer with, and its place in gRPC and HTTP.

    MeshError
    ├── InvalidInput         INVALID_ARGUMENT     400
    │   ├── TooLarge         INVALID_ARGUMENT     413
    │   └── Unsupported      INVALID_ARGUMENT     415
    ├── Unauthenticated      UNAUTHENTICATED      401
    ├── PermissionDenied     PERMISSION_DENIED    403
    ├── NotFound             NOT_FOUND            404
    ├── Conflict             ALREADY_EXISTS       409
    ├── Fenced               ABORTED              409
    ├── Precondition         FAILED_PRECONDITION  409
    │   └── Unprocessable    FAILED_PRECONDITION  422
    ├── LimitExceeded        RESOURCE_EXHAUSTED   429
    │   ├── BudgetExhausted  RESOURCE_EXHAUSTED   402
    │   └── Busy             RESOURCE_EXHAUSTED   503
    ├── Unavailable          UNAVAILABLE          503
    ├── DeadlineExceeded     DEADLINE_EXCEEDED    504
    ├── Cancelled            CANCELLED            499
    └── Internal             INTERNAL             500

Every error has a stable `reason` in capitals that programs may rely on, and a
`detail`, one sentence a person can act on. On the wire a `google.rpc.ErrorInfo`
carries reason and class, so that an error stays itself over any number of hops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DOMAIN = "citemesh"
RETRY_SECONDS = 1.0
"""When to come back to a service that could not be reached or is at its limit."""
_KIND = "kind"


class MeshError(Exception):
    """An error with a reason, as a caller of the mesh sees it.

    Args:
        reason: Stable, in capitals with underscores.
        detail: One sentence a person can act on; no secret, no document text.
        metadata: More facts for programs.
        retry_after: Seconds after which a retry makes sense; None when unknown.
        fields: Input fields at fault and what is wrong with each.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.fields = dict(fields or {})


class InvalidInput(MeshError):
    """The request itself is wrong; repeating it changes nothing."""

    code, http_status = grpc.StatusCode.INVALID_ARGUMENT, 400


class TooLarge(InvalidInput):
    """The request is larger than allowed."""

    http_status = 413


class Unsupported(InvalidInput):
    """The content is of a kind that is not handled."""

    http_status = 415


class Unauthenticated(MeshError):
    """Who is calling could not be established."""

    code, http_status = grpc.StatusCode.UNAUTHENTICATED, 401


class PermissionDenied(MeshError):
    """The caller is known and may not do this."""

    code, http_status = grpc.StatusCode.PERMISSION_DENIED, 403


class NotFound(MeshError):
    """There is no such thing, or the caller may not know that there is."""

    code, http_status = grpc.StatusCode.NOT_FOUND, 404


class Conflict(MeshError):
    """It exists already, with other content."""

    code, http_status = grpc.StatusCode.ALREADY_EXISTS, 409


class Fenced(MeshError):
    """The caller lost its lease to another worker; its write was refused."""

    code, http_status = grpc.StatusCode.ABORTED, 409


class Precondition(MeshError):
    """The system is not in the state the request needs."""

    code, http_status = grpc.StatusCode.FAILED_PRECONDITION, 409


class Unprocessable(Precondition):
    """The content was understood and cannot be processed, such as an encrypted file."""

    http_status = 422


class LimitExceeded(MeshError):
    """Too much at once; try again after `retry_after` seconds."""

    code, http_status = grpc.StatusCode.RESOURCE_EXHAUSTED, 429


class BudgetExhausted(LimitExceeded):
    """The project has no money left for this."""

    http_status = 402


class Busy(LimitExceeded):
    """There is more to do than can be done in time; others asked, not this caller too much."""

    http_status = 503


class Unavailable(MeshError):
    """Something needed is not there now; a retry may help."""

    code, http_status = grpc.StatusCode.UNAVAILABLE, 503


class DeadlineExceeded(MeshError):
    """The time the caller gave was not enough."""

    code, http_status = grpc.StatusCode.DEADLINE_EXCEEDED, 504


class Cancelled(MeshError):
    """The caller went away."""

    code, http_status = grpc.StatusCode.CANCELLED, 499


class Internal(MeshError):
    """A defect of the mesh; its log has the request id and the cause."""


def _family(cls: type[MeshError]) -> list[type[MeshError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _family(sub))]


BY_KIND = {cls.__name__: cls for cls in _family(MeshError)[1:]}
BY_CODE = {cls.code: cls for cls in reversed(BY_KIND.values())}
BY_NUMBER = {code.value[0]: cls for code, cls in BY_CODE.items()}


def to_status(error: MeshError, request_id: str = "") -> Status:
    """The error as `google.rpc.Status` with ErrorInfo, RetryInfo and BadRequest."""
    status = Status(code=error.code.value[0], message=error.detail)
    metadata = {**error.metadata, _KIND: type(error).__name__}
    if request_id:
        metadata["request_id"] = request_id
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    if error.fields:
        violations = [
            BadRequest.FieldViolation(field=name, description=text)
            for name, text in error.fields.items()
        ]
        status.details.add().Pack(BadRequest(field_violations=violations))
    return status


def from_status(status: Status) -> MeshError | None:
    """The error a status carries; None when it is not one of ours."""
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    seen = False
    for detail in status.details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
            seen = info.domain == DOMAIN
        elif detail.Is(RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
        elif detail.Is(BadRequest.DESCRIPTOR):
            detail.Unpack(bad)
    if not seen:
        return None
    metadata = dict(info.metadata)
    # A class that a newer process has and this one does not know.
    otherwise = BY_NUMBER.get(status.code, Internal)
    cls = BY_KIND.get(metadata.pop(_KIND, ""), otherwise)
    delay = retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
    fields = {violation.field: violation.description for violation in bad.field_violations}
    return cls(info.reason, status.message, metadata=metadata, retry_after=delay, fields=fields)


class _AsCall:
    """What `rpc_status.from_call` reads, filled from an error that aio raised.

    Given the error itself it fails: aio's metadata is no list of pairs it knows.
    """

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str:
        return self._error.details() or ""

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self._error.trailing_metadata() or ())


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """The typed error behind a failed call.

    An error of the mesh is itself again, reason and all; what gRPC raised by
    itself (connection refused, deadline) gets the class and reason of its code.
    """
    status = rpc_status.from_call(cast(grpc.Call, _AsCall(error)))
    if status is not None and (known := from_status(status)) is not None:
        return known
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Unavailable(
            "SERVICE_OUTDATED",
            "A service of the mesh is older than this call; try again when its upgrade is over.",
            retry_after=RETRY_SECONDS,
        )
    cls = BY_CODE.get(error.code(), Internal)
    texts = {
        grpc.StatusCode.UNAVAILABLE: "A service of the mesh cannot be reached now; try again.",
        grpc.StatusCode.DEADLINE_EXCEEDED: "The time given was not enough; try again or give more.",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "The service is at its limit; try again shortly.",
        grpc.StatusCode.CANCELLED: "The call was cancelled.",
    }
    reasons = {
        grpc.StatusCode.UNAVAILABLE: "SERVICE_UNAVAILABLE",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "SERVICE_BUSY",
    }
    code = error.code()
    text = texts.get(code, "A service of the mesh failed; its log has the request id.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        cls = Busy
    return cls(
        reasons.get(code, code.name), text, retry_after=RETRY_SECONDS if code in reasons else None
    )
