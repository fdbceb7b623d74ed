"""How often a key and an address may ask, by the `limits` library.

Windows are fixed: cheap, and the same in memory as in Redis. A burst across the
edge of two windows may therefore be twice the limit.
"""

from __future__ import annotations

import ipaddress
import time
from functools import lru_cache

from limits import RateLimitItem, parse_many
from limits.aio.strategies import FixedWindowRateLimiter

from gateway.counters import counters
from gateway.settings import GatewaySettings
from meshkit.errors import LimitExceeded


class Limits:
    """The limits of the gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._counters = counters(settings.limits_storage)
        self._limiter = FixedWindowRateLimiter(self._counters)
        self._key = parse_many(settings.key_limit)
        self._address = parse_many(settings.address_limit)
        self._anonymous = parse_many(settings.anonymous_limit)
        self._failure = parse_many(settings.failure_limit)

    async def by_key(self, key_id: str) -> None:
        """Counts a request of a key.

        Raises:
            LimitExceeded: KEY_LIMIT_EXCEEDED.
        """
        await self._hit(self._key, "key", key_id, "KEY_LIMIT_EXCEEDED", "This key")

    async def by_address(self, address: str) -> None:
        """Counts a request of an address, whatever it carries.

        Raises:
            LimitExceeded: ADDRESS_LIMIT_EXCEEDED; TOO_MANY_FAILURES after too many
                refused credentials.
        """
        network = network_of(address)
        for item in self._failure:
            if not await self._limiter.test(item, "failure", network):
                raise await self._error(
                    item,
                    "failure",
                    network,
                    "TOO_MANY_FAILURES",
                    "This address failed to authenticate too often",
                )
        await self._hit(self._address, "address", network, "ADDRESS_LIMIT_EXCEEDED", "This address")

    async def anonymous(self, address: str) -> None:
        """Counts a request to a page that needs no key.

        Raises:
            LimitExceeded: ADDRESS_LIMIT_EXCEEDED.
        """
        await self._hit(
            self._anonymous,
            "anonymous",
            network_of(address),
            "ADDRESS_LIMIT_EXCEEDED",
            "This address",
        )

    async def failed(self, address: str) -> None:
        """Counts a refused credential."""
        for item in self._failure:
            await self._limiter.hit(item, "failure", network_of(address))

    def sweep(self) -> None:
        """Forgets what is over; Redis does so by itself."""
        self._counters.sweep()

    async def _hit(
        self, items: list[RateLimitItem], kind: str, name: str, reason: str, who: str
    ) -> None:
        for item in items:
            if not await self._limiter.hit(item, kind, name):
                raise await self._error(item, kind, name, reason, f"{who} asks too often")

    async def _error(
        self, item: RateLimitItem, kind: str, name: str, reason: str, what: str
    ) -> LimitExceeded:
        window = await self._limiter.get_window_stats(item, kind, name)
        wait = max(1.0, window.reset_time - time.time())
        return LimitExceeded(reason, f"{what}; try again in {wait:.0f} s.", retry_after=wait)


@lru_cache(4096)
def network_of(address: str) -> str:
    """What counts as one address: itself, or the /64 network with IPv6.

    Whoever has one IPv6 address has 2**64 of them.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
