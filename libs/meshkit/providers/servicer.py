"""What an operator may ask of a process that calls providers: its breakers, and to close them."""

from __future__ import annotations

from typing import Any

from citemesh.operations import v1
from meshkit.context import ADMIN, INTERNAL, require_scope
from meshkit.logging import logger
from meshkit.providers.breakers import Breakers, Line
from meshkit.resilience.breaker import Fault, State

log = logger(__name__)

STATES = {
    State.CLOSED: v1.BREAKER_STATE_CLOSED,
    State.HALF_OPEN: v1.BREAKER_STATE_HALF_OPEN,
    State.OPEN: v1.BREAKER_STATE_OPEN,
}
FAULTS = {
    None: v1.BREAKER_FAULT_UNSPECIFIED,
    Fault.TRANSIENT: v1.BREAKER_FAULT_TRANSIENT,
    Fault.ACCOUNT: v1.BREAKER_FAULT_ACCOUNT,
    Fault.REVOKED: v1.BREAKER_FAULT_REVOKED,
}


class OperationsServicer(v1.OperationsServiceServicer):
    """Served beside the service's own contract.

    Args:
        breakers: Those of this process.
    """

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers

    async def ListBreakers(
        self, _request: v1.ListBreakersRequest, _context: Any
    ) -> v1.ListBreakersResponse:
        """Every breaker of this process."""
        require_scope(ADMIN, INTERNAL)
        return v1.ListBreakersResponse(breakers=[_message(line) for line in self._breakers.lines()])

    async def ResetBreakers(
        self, request: v1.ResetBreakersRequest, _context: Any
    ) -> v1.ResetBreakersResponse:
        """Closes a provider's breakers, or all."""
        caller = require_scope(ADMIN, INTERNAL)
        closed = self._breakers.reset(request.provider)
        log.warning("breakers reset", provider=request.provider, closed=closed, by=caller.subject)
        return v1.ResetBreakersResponse(closed=closed)


def _message(line: Line) -> v1.Breaker:
    target, view = line.target, line.view
    return v1.Breaker(
        provider=target.provider,
        model=target.model,
        operation=target.operation,
        state=STATES[view.state],
        fault=FAULTS[None if view.state is State.CLOSED else view.fault],
        step=view.step,
        seconds_left=view.seconds_left,
    )
