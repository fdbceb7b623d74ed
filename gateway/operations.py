"""Breakers of every process that calls providers, asked one by one: each has its own.

A component may have several replicas behind one name. A call through the usual channel
would reach one of them, so each address that the name stands for is asked by itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from citemesh.operations import v1 as operations_v1
from meshkit.channel import MeshChannel
from meshkit.components import BY_NAME
from meshkit.context import ADMIN, RequestContext, acting_as
from meshkit.errors import MeshError
from meshkit.identity import Signer
from meshkit.ids import new_id
from meshkit.logging import logger
from meshkit.tls import Tls

log = logger(__name__)

SECONDS = 0.8
"""Within which a process has to say how its providers are."""
RESET_SECONDS = 5.0

T = TypeVar("T")
Ask = Callable[[operations_v1.OperationsServiceAsyncStub], Awaitable[T]]


@dataclass(frozen=True, slots=True, order=True)
class Replica:
    """One process of a component."""

    component: str
    address: str
    """`host:port`."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker of one process."""

    replica: Replica
    provider: str
    model: str
    operation: str
    """With the model empty for the breaker of the provider's account."""
    state: str
    """`closed`, `half_open`, `open`."""
    fault: str
    """`transient`, `account`, `revoked`; empty while closed."""
    step: int
    """Which rung of the ladder, from 1; 0 while closed or when the provider named the time."""
    seconds_left: float


def split(address: str) -> tuple[str, str]:
    """Host and port of where a component is dialled: `dns:///rerank:50051`."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    return host.strip("[]"), port


@dataclass(frozen=True, slots=True)
class Breakers:
    """What all processes together say."""

    found: tuple[Breaker, ...]
    silent: tuple[Replica, ...]
    """Processes that did not answer."""


class Operations:
    """Asks and tells the processes that call providers.

    Args:
        addresses: Where components are, by name; those that call no provider are left out.
        signer: For questions of the gateway's own.
        tls: As other calls between services.
    """

    def __init__(
        self, addresses: Mapping[str, str], signer: Signer, tls: Tls | None = None
    ) -> None:
        self._tls = tls
        self._addresses = {n: a for n, a in addresses.items() if BY_NAME[n].calls_providers}
        self._signer = signer
        self._channels: dict[Replica, MeshChannel] = {}

    async def breakers(self, caller: RequestContext | None = None) -> Breakers:
        """Every breaker of every process; a process that does not answer is named.

        Args:
            caller: Who asks; None is the gateway itself, for its readiness.
        """
        with acting_as(caller or self._own()):
            answers = await self._each(_list)
        found = [
            _breaker(replica, message)
            for replica, answer in answers.items()
            if answer is not None
            for message in answer.breakers
        ]
        silent = tuple(sorted(replica for replica, answer in answers.items() if answer is None))
        return Breakers(tuple(found), silent)

    async def reset(self, provider: str, caller: RequestContext) -> tuple[int, tuple[Replica, ...]]:
        """Closes a provider's breakers everywhere, or all; how many, and who could not be told."""
        with acting_as(caller):
            answers = await self._each(
                lambda stub: stub.ResetBreakers(
                    operations_v1.ResetBreakersRequest(provider=provider), timeout=RESET_SECONDS
                )
            )
        closed = sum(answer.closed for answer in answers.values() if answer is not None)
        silent = tuple(sorted(replica for replica, answer in answers.items() if answer is None))
        return closed, silent

    async def _each(self, ask: Ask[T]) -> dict[Replica, T | None]:
        replicas = await self._replicas()
        await self._forget(replicas)
        answers = await asyncio.gather(*(self._ask(replica, ask) for replica in replicas))
        return dict(zip(replicas, answers, strict=True))

    async def _ask(self, replica: Replica, ask: Ask[T]) -> T | None:
        channel = self._channels.get(replica)
        if channel is None:
            service = BY_NAME[replica.component].grpc_service
            host, _ = split(_each_of(self._addresses[replica.component])[0])
            channel = MeshChannel(replica.address, service, self._tls, host=host)
            self._channels[replica] = channel
        try:
            return await ask(operations_v1.OperationsServiceAsyncStub(channel))
        except MeshError as error:
            # Whoever is shown the result sees it; a probe may ask every second.
            log.debug("a process did not answer", component=replica.component, why=error.reason)
            return None

    async def _replicas(self) -> list[Replica]:
        """Every process behind the components' names; an unknown name stands for itself."""
        found: set[Replica] = set()
        named = [(c, one) for c, address in self._addresses.items() for one in _each_of(address)]
        for component, address in named:
            host, port = split(address)
            loop = asyncio.get_running_loop()
            try:
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError:
                found.add(Replica(component, address))
                continue
            for family, _, _, _, where in infos:
                ip = f"[{where[0]!s}]" if family == socket.AF_INET6 else str(where[0])
                found.add(Replica(component, f"{ip}:{port}"))
        return sorted(found)

    async def _forget(self, replicas: list[Replica]) -> None:
        """Closes channels to processes that are gone."""
        for replica in self._channels.keys() - set(replicas):
            await self._channels.pop(replica).close()

    def _own(self) -> RequestContext:
        return self._signer.sign(
            project_id="",
            principals=[],
            scopes=[ADMIN],
            subject="service:gateway",
            request_id=new_id("req"),
        )

    async def close(self) -> None:
        """Closes every channel."""
        async with AsyncExitStack() as stack:
            for channel in self._channels.values():
                stack.push_async_callback(channel.close)
        self._channels.clear()


def _each_of(address: str) -> list[str]:
    """The addresses of a target, of which gRPC's `ipv4:` and `ipv6:` list several."""
    scheme, _, listed = address.partition(":")
    return listed.split(",") if scheme in ("ipv4", "ipv6") else [address]


async def _list(
    stub: operations_v1.OperationsServiceAsyncStub,
) -> operations_v1.ListBreakersResponse:
    return await stub.ListBreakers(operations_v1.ListBreakersRequest(), timeout=SECONDS)


def _breaker(replica: Replica, message: operations_v1.Breaker) -> Breaker:
    closed = message.state == operations_v1.BREAKER_STATE_CLOSED
    return Breaker(
        replica=replica,
        provider=message.provider,
        model=message.model,
        operation=message.operation,
        state=_word(operations_v1.BreakerState.Name(message.state), "BREAKER_STATE_"),
        fault=""
        if closed
        else _word(operations_v1.BreakerFault.Name(message.fault), "BREAKER_FAULT_"),
        step=message.step,
        seconds_left=round(message.seconds_left, 1),
    )


def _word(name: str, prefix: str) -> str:
    word = name.removeprefix(prefix).lower()
    return "" if word == "unspecified" else word
