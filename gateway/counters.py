"""Where the counters of limits live: in this process, or in a Redis that gateways share."""

from __future__ import annotations

import time

from limits.aio.storage import MemoryStorage, Storage
from limits.errors import StorageError
from limits.storage import storage_from_string

from meshkit.logging import logger
from meshkit.settings import SettingsInvalid

log = logger(__name__)

REDIS_SECONDS = 0.5
"""Longest wait for Redis, of a request that is to be counted."""
AWAY_SECONDS = 5.0
"""How long a Redis that failed is not asked."""


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


class SharedCounters(Counters):
    """Counters in Redis, and in this process's memory while Redis is away.

    Without Redis the gateways together let through as many times the limit as there are
    of them. That is better than refusing everybody, and than no limit at all.
    """

    def __init__(self, redis: Storage) -> None:
        super().__init__()
        self._redis = redis
        self._away_until = 0.0

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Adds to a counter and returns it."""
        if self._there():
            try:
                return await self._redis.incr(key, int(expiry), amount)
            except StorageError as error:
                self._lost(error)
        return await super().incr(key, expiry, amount)

    async def get(self, key: str) -> int:
        """A counter."""
        if self._there():
            try:
                return await self._redis.get(key)
            except StorageError as error:
                self._lost(error)
        return await super().get(key)

    async def get_expiry(self, key: str) -> float:
        """When its window is over, seconds since 1970."""
        if self._there():
            try:
                return await self._redis.get_expiry(key)
            except StorageError as error:
                self._lost(error)
        return await super().get_expiry(key)

    def _there(self) -> bool:
        return time.monotonic() >= self._away_until

    def _lost(self, error: StorageError) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        log.warning("limits are counted in memory", kind=type(error.storage_error).__name__)


def counters(uri: str) -> Counters:
    """The counters at `memory://` or a Redis URL.

    Raises:
        SettingsInvalid: it is neither.
    """
    if uri.startswith("memory:"):
        return Counters()
    if not uri.startswith(("redis://", "rediss://")):
        raise SettingsInvalid("CITEMESH_GATEWAY_LIMITS_STORAGE must be memory:// or a Redis URL.")
    redis = storage_from_string(
        f"async+{uri}",
        implementation="redispy",
        wrap_exceptions=True,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
    )
    assert isinstance(redis, Storage)
    return SharedCounters(redis)
