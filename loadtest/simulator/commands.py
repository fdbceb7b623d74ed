"""Commands and counters of the simulator, for tests and for people with curl."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtest.simulator.faults import FaultKind
from loadtest.simulator.pace import Pace
from loadtest.simulator.quotas import Quota
from loadtest.simulator.world import World

SHOWN = 1000
"""Calls that are listed, the last ones."""


class Commands:
    """The routes below `/_simulator`.

    Args:
        world: What they show and change.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> Sequence[Route]:
        """Every command."""
        return [
            Route("/faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route("/faults/{number:int}", self.remove_fault, methods=["DELETE"]),
            Route("/quotas", self.quotas, methods=["GET", "PUT"]),
            Route("/pace", self.pace, methods=["GET", "PUT"]),
            Route("/calls", self.calls),
            Route("/clock", self.clock, methods=["GET", "POST"]),
            Route("/tls", self.tls),
            Route("/reset", self.reset, methods=["POST"]),
        ]

    async def faults(self, request: Request) -> Response:
        """Sets a fault, lists them, or removes all."""
        if request.method == "POST":
            try:
                fault = self._world.faults.add(await request.json(), self._world.now())
            except (ValueError, TypeError) as error:
                return _refused(error)
            if fault.kind is FaultKind.TLS:
                # A connection that is open already shakes no hands any more.
                self._world.hang_up(fault.provider)
            return JSONResponse(dataclasses.asdict(fault), 201)
        if request.method == "DELETE":
            self._world.faults.remove()
        return self._list_faults()

    async def remove_fault(self, request: Request) -> Response:
        """Removes one."""
        self._world.faults.remove(request.path_params["number"])
        return self._list_faults()

    def _list_faults(self) -> Response:
        return JSONResponse([dataclasses.asdict(fault) for fault in self._world.faults.all()])

    async def quotas(self, request: Request) -> Response:
        """Sets the quotas, or lists them."""
        if request.method == "PUT":
            try:
                self._world.quotas.quotas = [Quota(**each) for each in await request.json()]
            except TypeError as error:
                return _refused(error)
        return JSONResponse([dataclasses.asdict(quota) for quota in self._world.quotas.quotas])

    async def pace(self, request: Request) -> Response:
        """Sets the pace of the operations that are named, or shows all."""
        if request.method == "PUT":
            try:
                named = {name: Pace(**values) for name, values in (await request.json()).items()}
            except TypeError as error:
                return _refused(error)
            self._world.pace.update(named)
        return JSONResponse({n: dataclasses.asdict(pace) for n, pace in self._world.pace.items()})

    async def calls(self, _request: Request) -> Response:
        """Counts by provider and operation, and the last calls."""
        last: list[dict[str, Any]] = []
        for record in self._world.records[-SHOWN:]:
            values = dataclasses.asdict(record)
            # A real key, sent here against every advice, is not shown again.
            values["call"]["key"] = f"…{record.call.key[-4:]}"
            last.append(values)
        return JSONResponse({"counts": self._world.counts(), "calls": last})

    async def clock(self, request: Request) -> Response:
        """Puts the clock forward, or tells the time."""
        if request.method == "POST":
            try:
                self._world.ahead += float((await request.json())["advance"])
            except (KeyError, TypeError, ValueError) as error:
                return _refused(error)
        return JSONResponse({"now": self._world.now(), "ahead": self._world.ahead})

    async def tls(self, _request: Request) -> Response:
        """The HTTPS ports and what to trust; empty without `--tls`."""
        return JSONResponse(self._world.tls)

    async def reset(self, _request: Request) -> Response:
        """Forgets faults, quotas and calls."""
        self._world.reset()
        return JSONResponse({})


def _refused(error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
