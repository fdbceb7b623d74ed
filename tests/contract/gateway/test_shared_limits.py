"""Limits that several gateways count together, in a real Redis."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.counters import SharedCounters, counters
from gateway.limits import Limits
from gateway.settings import GatewaySettings
from meshkit.errors import LimitExceeded
from meshkit.settings import SettingsInvalid
from tests.contract.gateway.test_gateway_process import free_port
from tests.contract.service_process import eventually

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(SERVER is None, reason="no redis-server: apt install redis-server")


class Redis:
    """A server that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        assert SERVER is not None
        self._process = subprocess.Popen(  # noqa: ASYNC220  # starts at once
            [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        shared = counters(self.url)
        assert isinstance(shared, SharedCounters)
        await eventually(shared._redis.check)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.stop()


def gateway(redis: Redis) -> Limits:
    return Limits(GatewaySettings(limits_storage=redis.url, key_limit="3/hour"))


async def ask(limits: Limits, times: int) -> int:
    """How many of so many requests of one key are let through."""
    passed = 0
    for _ in range(times):
        try:
            await limits.by_key("key_1")
        except LimitExceeded:
            continue
        passed += 1
    return passed


@needs_redis
async def test_gateways_with_one_redis_count_together(redis: Redis) -> None:
    await redis.start()
    assert await ask(gateway(redis), 2) == 2
    assert await ask(gateway(redis), 5) == 1


@needs_redis
async def test_while_redis_is_away_each_counts_by_itself(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.counters.AWAY_SECONDS", 0.0)
    await redis.start()
    one, other = gateway(redis), gateway(redis)
    assert await ask(one, 4) == 3
    redis.stop()
    assert await ask(one, 4) == 3, "its own counter begins at nothing"
    assert await ask(other, 4) == 3
    await redis.start()
    assert await ask(other, 1) == 1, "this Redis has begun anew"
    assert await ask(one, 4) == 2, "and is asked again"


async def test_a_redis_that_was_never_there_limits_too(redis: Redis) -> None:
    assert await ask(gateway(redis), 5) == 3


@pytest.mark.parametrize("uri", ["file:///counters", "mongodb://counters", "redis+sentinel://a"])
def test_another_storage_is_refused_at_the_start(uri: str) -> None:
    with pytest.raises(SettingsInvalid, match="LIMITS_STORAGE"):
        counters(uri)
