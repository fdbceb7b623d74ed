"""Processes are replaced one after the other, and nobody who asks notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.components import RUNTIME_ROLES
from meshkit.supervisor.database import ROLE_PREFIX
from tests.conftest import MigratedPostgres
from tests.rolling.__main__ import SETTINGS, roll
from tests.rolling.fleet import running_fleet
from tests.rolling.traffic import Traffic

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

ROLLED = ("generation", "gateway")
"""The hop that streams, and the edge; `make rolling-restart` has all."""


@pytest.mark.timeout(300)
async def test_processes_are_replaced_under_load_and_no_request_fails(
    postgres: MigratedPostgres, scratch: Path
) -> None:
    services = [role.removeprefix(ROLE_PREFIX) for role in RUNTIME_ROLES]
    urls = {service: postgres.dsn(service) for service in services}
    counts = dict.fromkeys(ROLLED, 2)
    async with running_fleet(scratch / "rolling", urls, counts, SETTINGS) as (fleet, key):
        traffic = Traffic(fleet.gateways, key, per_second=5.0)
        async with traffic.connected():
            rolled = await roll(fleet, traffic, list(ROLLED))
            await traffic.settled(traffic.acknowledged)
    assert rolled.restarts == 4
    assert traffic.failed() == {}
    assert {each.kind for each in traffic.outcomes} == {"search", "ask", "upload"}
