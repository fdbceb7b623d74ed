"""What can go wrong at a provider, whoever it is: one taxonomy.

    ProviderError            kind              scope     asked again
    ├── RateLimited          rate_limited      model     after `retry_after`
    ├── QuotaExhausted       quota_exhausted   model     when the quota is full again
    ├── KeyRejected          key_rejected      account   never: somebody has to act
    ├── AccountBlocked       account_blocked   account   never: somebody has to act
    ├── Overloaded           overloaded        model     soon
    ├── ServerFailed         server_failed     provider  soon
    ├── TimedOut             timed_out         model     soon
    ├── NetworkFailed        network_failed    provider  soon
    ├── StreamTruncated      stream_truncated  model     soon
    ├── MalformedResponse    malformed         model     soon
    ├── ModelUnknown         model_unknown     model     never: a setting is wrong
    ├── ContentBlocked       content_blocked   request   never with this content
    ├── InvalidRequest       invalid_request   request   never with this request
    └── BreakerOpen          breaker_open      model     when its breaker lets a call through

`scope` says what else would fail: the same request anywhere, this model, all of the
provider, or everything under this key. docs/providers.md has the table of what each
provider sends for it. An adapter raises nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from meshkit.errors import DeadlineExceeded, MeshError, Unavailable, Unprocessable


class Scope(StrEnum):
    """What an error says something about."""

    REQUEST = "request"
    """This request would fail again, others would not."""
    MODEL = "model"
    """Other requests to the same model and operation would fail too."""
    PROVIDER = "provider"
    """Every model of the provider is likely to fail."""
    ACCOUNT = "account"
    """Everything under the same key fails until somebody acts."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is called."""

    provider: str
    """`gemini`, `cohere`, `anthropic`."""
    model: str
    """In the provider's spelling."""
    operation: str
    """`embed`, `rerank`, `generate`."""


class ProviderError(Exception):
    """A call to a provider that failed.

    Args:
        target: What was called.
        status: HTTP status; 0 when there was no answer.
        code: What the provider calls it, such as `RESOURCE_EXHAUSTED`; never its message,
            which may hold a key or a text.
        retry_after: Seconds after which the provider may answer; None when it did not say.
        call_id: The provider's own name for the call, for its support.
    """

    kind: ClassVar[str] = "unknown"
    scope: ClassVar[Scope] = Scope.MODEL
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed within seconds."""
    billed: ClassVar[bool] = False
    """Whether the provider had taken the call, and may have it paid."""
    says: ClassVar[str] = "failed"
    """What the provider did, for a sentence."""

    def __init__(
        self,
        target: Target,
        *,
        status: int = 0,
        code: str = "",
        retry_after: float | None = None,
        call_id: str = "",
    ) -> None:
        super().__init__(f"{target.provider} {self.says}")
        self.target = target
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.call_id = call_id

    @property
    def reason(self) -> str:
        """Stable, in capitals: `PROVIDER_OVERLOADED`."""
        return f"PROVIDER_{self.kind.upper()}"

    def facts(self) -> dict[str, str | int | float | None]:
        """The error for a log line: no secret and no text."""
        return {
            "provider": self.target.provider,
            "model": self.target.model,
            "operation": self.target.operation,
            "kind": self.kind,
            "status": self.status,
            "code": self.code,
            "retry_after": self.retry_after,
            "call_id": self.call_id,
        }

    def as_mesh_error(self) -> MeshError:
        """The error as a caller of the mesh sees it when no other provider could stand in."""
        provider = self.target.provider
        metadata = {"provider": provider, "kind": self.kind}
        if isinstance(self, ContentBlocked):
            return Unprocessable(
                "PROVIDER_BLOCKED_CONTENT",
                f"The provider {provider} declined to work on this content.",
                metadata=metadata,
            )
        if isinstance(self, TimedOut):
            return DeadlineExceeded(
                "PROVIDER_TIMED_OUT",
                f"The provider {provider} did not answer in the time there was.",
                metadata=metadata,
            )
        return Unavailable(
            "PROVIDER_UNAVAILABLE",
            f"The provider {provider} {self.says}, and no other could stand in.",
            metadata=metadata,
            retry_after=self.retry_after,
        )


class RateLimited(ProviderError):
    """Too much in a short time; a minute's quota belongs here too."""

    kind, retryable = "rate_limited", True
    says = "asked for fewer requests"


class QuotaExhausted(ProviderError):
    """The quota of a day or month, or what was paid for, is used up."""

    kind = "quota_exhausted"
    says = "has no quota left for this account"


class KeyRejected(ProviderError):
    """The key is unknown, expired, revoked or reported as leaked."""

    kind, scope = "key_rejected", Scope.ACCOUNT
    says = "refused the API key"


class AccountBlocked(ProviderError):
    """The key is right and the account may not do this: billing, region, permission."""

    kind, scope = "account_blocked", Scope.ACCOUNT
    says = "does not serve this account"


class Overloaded(ProviderError):
    """The provider has no capacity now."""

    kind, retryable = "overloaded", True
    says = "is overloaded"


class ServerFailed(ProviderError):
    """The provider failed by its own fault."""

    kind, scope, retryable = "server_failed", Scope.PROVIDER, True
    says = "failed"


class TimedOut(ProviderError):
    """No answer, or none to the end, in the time there was."""

    kind, retryable, billed = "timed_out", True, True
    says = "did not answer in time"


class NetworkFailed(ProviderError):
    """Name, connection or TLS failed, or the connection broke."""

    kind, scope, retryable = "network_failed", Scope.PROVIDER, True
    says = "could not be reached"


class StreamTruncated(ProviderError):
    """A stream ended without its closing word."""

    kind, retryable, billed = "stream_truncated", True, True
    says = "ended its answer half way"


class MalformedResponse(ProviderError):
    """What came cannot be used: no JSON, wrong length, missing parts."""

    kind, retryable, billed = "malformed", True, True
    says = "sent something that cannot be used"


class ModelUnknown(ProviderError):
    """The provider has no such model, or not for this account."""

    kind = "model_unknown"
    says = "does not know the model"


class ContentBlocked(ProviderError):
    """The provider's safety rules stopped it."""

    kind, scope = "content_blocked", Scope.REQUEST
    says = "declined to work on the content"


class InvalidRequest(ProviderError):
    """The provider finds the request wrong; a defect here, or a text that is too long."""

    kind, scope = "invalid_request", Scope.REQUEST
    says = "refused the request"


class BreakerOpen(ProviderError):
    """Not called: it failed too often a moment ago, or our share of its quota is used up."""

    kind = "breaker_open"
    says = "is given a rest after failures"


KINDS: dict[str, type[ProviderError]] = {cls.kind: cls for cls in ProviderError.__subclasses__()}
