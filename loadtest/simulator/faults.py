"""Faults on command or by schedule: which call is hit, and by what. No I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import count
from typing import Any

from loadtest.simulator.call import Call


class FaultKind(StrEnum):
    """What happens to a call."""

    RATE_LIMITED = "rate_limited"
    """429; says when to come back if `retry_after` is given."""
    QUOTA_EXHAUSTED = "quota_exhausted"
    """429 of a day's or month's quota."""
    KEY_LEAKED = "key_leaked"
    """403, or the provider's nearest answer to a revoked key."""
    KEY_INVALID = "key_invalid"
    NO_CREDIT = "no_credit"
    """The account has not paid."""
    SERVER_ERROR = "server_error"
    """500; as an error event when a stream has begun."""
    OVERLOADED = "overloaded"
    """503, or Anthropic's 529; as an error event when a stream has begun."""
    INVALID_REQUEST = "invalid_request"
    MODEL_UNKNOWN = "model_unknown"
    BLOCKED = "blocked"
    """The provider's safety rules stop it."""
    HANG = "hang"
    """Nothing more comes for `seconds`; then the connection is closed."""
    SLOW_DRIP = "slow_drip"
    """One piece in every `seconds`."""
    RESET = "reset"
    """The connection is reset (RST)."""
    TRUNCATED = "truncated"
    """The answer ends early, without its closing event; in one piece, half of its bytes."""
    MALFORMED = "malformed"
    """A piece that is no JSON."""
    WRONG_DIMENSION = "wrong_dimension"
    """Vectors one value too short."""
    EMPTY_VECTOR = "empty_vector"
    """Vectors without any value."""
    ZERO_VECTOR = "zero_vector"
    TLS = "tls"
    """The handshake fails; on the simulator's TLS ports only."""


@dataclass(slots=True)
class Fault:
    """One rule. A call is hit by the first rule that matches it."""

    kind: FaultKind
    provider: str = "*"
    operation: str = "*"
    model: str = "*"
    key: str = "*"
    after: int = 0
    """Pieces of text that a stream gives first; without any the fault is the answer."""
    times: int | None = None
    """Calls it hits before it is gone; None means until it is removed."""
    probability: float = 1.0
    retry_after: float | None = None
    """Seconds, where the provider says when to come back."""
    seconds: float = 60.0
    """Of a hang, or between the pieces of a slow drip."""
    begins: float = 0.0
    """Seconds after it was set; the schedule of a fault that is yet to come."""
    lasts: float | None = None
    """Seconds from its beginning; None means for ever."""
    id: int = 0
    hits: int = 0
    set_at: float = field(default=0.0, repr=False)

    def matches(self, call: Call, now: float) -> bool:
        """Whether the rule is about the call, now."""
        since = now - self.set_at - self.begins
        return (
            since >= 0
            and (self.lasts is None or since < self.lasts)
            and (self.times is None or self.hits < self.times)
            and self.provider in ("*", call.provider)
            and self.operation in ("*", call.operation)
            and self.model in ("*", call.model)
            and self.key in ("*", call.key)
            and (call.operation == "embed" or self.kind not in _OF_EMBEDDINGS)
        )


_OF_EMBEDDINGS = (FaultKind.WRONG_DIMENSION, FaultKind.EMPTY_VECTOR, FaultKind.ZERO_VECTOR)
_SETTABLE = {each.name for each in fields(Fault)} - {"id", "hits", "set_at"}


class Faults:
    """The rules that are set."""

    def __init__(self, seed: int = 0) -> None:
        self._rules: list[Fault] = []
        self._numbers = count(1)
        self._random = random.Random(seed)

    def add(self, values: Mapping[str, Any], now: float) -> Fault:
        """Sets a rule.

        Raises:
            ValueError: naming what no fault has.
        """
        unknown = sorted(set(values) - _SETTABLE)
        if unknown or "kind" not in values:
            raise ValueError(f"no fault has {', '.join(unknown)}" if unknown else "kind is missing")
        fault = Fault(**{**values, "kind": FaultKind(values["kind"])})
        fault.id, fault.set_at = next(self._numbers), now
        self._rules.append(fault)
        return fault

    def remove(self, number: int | None = None) -> None:
        """Removes a rule, or all."""
        self._rules = [rule for rule in self._rules if number is not None and rule.id != number]

    def all(self) -> list[Fault]:
        """The rules in the order in which they are tried."""
        return list(self._rules)

    def pick(self, call: Call, now: float, *, handshake: bool = False) -> Fault | None:
        """The rule that hits a call; it counts the hit."""
        for rule in self._rules:
            if (rule.kind is FaultKind.TLS) is not handshake or not rule.matches(call, now):
                continue
            if rule.probability >= 1 or self._random.random() < rule.probability:
                rule.hits += 1
                return rule
        return None
