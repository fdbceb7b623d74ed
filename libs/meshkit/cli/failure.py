"""How a command fails: one sentence, the reason, the request id; exit code 1."""

from __future__ import annotations


class CommandFailed(Exception):
    """Ends a command with exit code 1.

    Args:
        detail: one sentence a person can act on.
        reason: stable, in capitals.
        request_id: of the request that failed; empty when none was answered.
        status: of the HTTP response that said so; 0 when there was none.
    """

    def __init__(
        self,
        detail: str,
        reason: str = "COMMAND_FAILED",
        request_id: str = "",
        status: int = 0,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.request_id = request_id

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail} [{self.reason}{request}]"
