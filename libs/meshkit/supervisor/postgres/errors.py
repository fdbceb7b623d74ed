"""What can go wrong with the embedded Postgres."""

from __future__ import annotations


class PostgresError(Exception):
    """The embedded Postgres cannot be used, and what to do about it.

    `reason` is stable and in capitals; `detail` is one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{detail} ({reason})")
        self.reason = reason
        self.detail = detail
