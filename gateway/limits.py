"""How often a key and an address may ask, by the `limits` library.

Windows are fixed: cheap, and the same in memory as in Redis. A burst across the
edge of two windows may therefore be twice the limit.
"""

from __future__ import annotations

import ipaddress
import time
from functools import lru_cache

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string

from gateway.settings import GatewaySettings
from meshkit.errors import LimitExceeded
from meshkit.settings import SettingsInvalid


class Counters(MemoryStorage):
    """Counters in memory that are tidied at intervals.

    The library's own tidies after every hit, which walks over all keys: measured
    0.4 ms a hit with 5,000 addresses. Windows end by a clock that nobody sets: `expirations`
    are its seconds.
    """

    STORAGE_SCHEME = None  # type: ignore[assignment]  # not to be found by URL

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Adds to a counter and returns it."""
        now = time.monotonic()
        if self.expirations.get(key, 0) <= now:
            self.storage[key] = 0
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]

    async def get(self, key: str) -> int:
        """What a counter stands at."""
        return self.storage[key] if self.expirations.get(key, 0) > time.monotonic() else 0

    async def get_expiry(self, key: str) -> float:
        """When a counter's window ends, in seconds since 1970 as Redis says it."""
        now = time.monotonic()
        return time.time() + max(0.0, self.expirations.get(key, now) - now)

    def sweep(self) -> None:
        """Forgets counters whose window is over."""
        now = time.monotonic()
        for key in [key for key, expires in self.expirations.items() if expires <= now]:
            del self.expirations[key]
            self.storage.pop(key, None)


class Limits:
    """The limits of the gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._storage = _storage(settings.limits_storage)
        self._limiter = FixedWindowRateLimiter(self._storage)
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
        if isinstance(self._storage, Counters):
            self._storage.sweep()

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


def _storage(uri: str) -> Storage:
    if uri.startswith("memory:"):
        return Counters()
    found = storage_from_string(f"async+{uri}")
    if not isinstance(found, Storage):
        raise SettingsInvalid("CITEMESH_GATEWAY_LIMITS_STORAGE must be memory:// or a Redis URL.")
    return found


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
