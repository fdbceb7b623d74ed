"""`python -m loadtest.simulator`: serves until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio

import uvicorn
import uvloop

from loadtest.simulator.app import build
from loadtest.simulator.pace import INSTANT, LIFELIKE
from loadtest.simulator.protocol import Protocol
from loadtest.simulator.tls import TlsPorts
from loadtest.simulator.world import World
from meshkit.memory import settle_memory

PROVIDERS = ("gemini", "cohere", "anthropic")


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(
        prog="loadtest.simulator",
        description="Speaks the wire formats of Gemini, Cohere and Anthropic.",
    )
    parser.add_argument("--listen", default="127.0.0.1:8090", help="address and port")
    parser.add_argument("--pace", choices=("instant", "lifelike"), default="instant")
    parser.add_argument("--tls", action="store_true", help="an HTTPS port for each provider, too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    world = World(seed=arguments.seed)
    world.pace.update(LIFELIKE if arguments.pace == "lifelike" else INSTANT)
    config = uvicorn.Config(
        build(world),
        host=host,
        port=int(port),
        http=Protocol,
        lifespan="off",
        log_level="warning",
        access_log=False,
        # By default a connection is closed after 5 s, perhaps under a request that is on its way.
        timeout_keep_alive=300,
        timeout_graceful_shutdown=1,
    )
    # Under uvloop a handshake hangs whose first bytes come before it is begun (`start_tls`).
    run = asyncio.run if arguments.tls else uvloop.run
    run(_serve(uvicorn.Server(config), world, int(port) if arguments.tls else 0))


async def _serve(server: uvicorn.Server, world: World, behind_tls: int) -> None:
    """Serves until a signal; with HTTPS in front of a port when that is given."""
    settle_memory()
    if not behind_tls:
        await server.serve()
        return
    ports = TlsPorts(world, behind_tls, PROVIDERS)
    await ports.start()
    world.tls = {"ports": ports.ports, "authority": str(ports.authority)}
    try:
        await server.serve()
    finally:
        await ports.close()


if __name__ == "__main__":
    main()
