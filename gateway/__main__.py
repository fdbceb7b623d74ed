"""`python -m gateway`: the REST interface, served until SIGTERM.

The port answers from the start: until the database is there, /healthz says
alive, /readyz names what is missing and /v1 answers 503. At SIGTERM requests are
taken a little longer, while /readyz sends the next ones elsewhere; then streams of
document events end, answers under way are finished, and what was opened is closed.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import uvicorn

from gateway.app import create_app
from gateway.mesh import Slot
from gateway.opening import open_mesh, watch_services
from gateway.readiness import Readiness
from gateway.settings import GatewaySettings, words
from meshkit import settings as settings_module
from meshkit.logging import logger
from meshkit.memory import settle_memory
from meshkit.process import (
    Process,
    lower_priority,
    prepare,
    refuse,
    run_loop,
    start_telemetry,
)
from meshkit.settings import SettingsInvalid

log = logger(__name__)

BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until `should_exit` is set."""
        await self._serve(sockets)


def listen(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsInvalid: when the address is none or somebody else's.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns Nagle's algorithm off only for sockets that say TCP, which
        # `socket.create_server` does not: every answer took 40 ms more.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "it is no host:port"
        raise SettingsInvalid(
            f"CITEMESH_GATEWAY_LISTEN is {address}, where it cannot listen: {reason}."
        ) from None
    return listener


def server(settings: GatewaySettings, slot: Slot) -> _Server:
    """The HTTP server around the application."""
    proxies = words(settings.trusted_proxies)
    return _Server(
        uvicorn.Config(
            create_app(settings, slot),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            # A request with a body over 64 KiB otherwise leaves its deadline and caller to
            # every later request of its connection (cpython#140947): 504 after 5 s, for ever.
            reset_contextvars=True,
        )
    )


async def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until SIGTERM or until background work fails."""
    process = Process(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("starting", **settings_module.visible(settings))
    readiness = Readiness()
    slot = Slot(readiness)
    listener = listen(settings.listen)
    http = server(settings, slot)
    serving = asyncio.create_task(http.serve([listener]))
    waiter: asyncio.Future[Any] = asyncio.create_task(stopping.wait())
    opening: asyncio.Future[Any] | None = None
    try:
        process.watch_event_loop()
        process.watch_clock()
        readiness.add("gateway", _is_open(slot), required=True)
        watch_services(process, readiness)
        opening = asyncio.create_task(open_mesh(process, readiness))
        await asyncio.wait({opening, waiter, serving}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            slot.mesh = opening.result()
            settle_memory()
            lower_priority(settings.nice)
            log.info("serving", port=listener.getsockname()[1], component="gateway")
            await asyncio.wait(
                {waiter, process.failed, serving}, return_when=asyncio.FIRST_COMPLETED
            )
        readiness.draining = True
        log.info("draining")
        if waiter.done():
            await asyncio.wait(
                {process.failed, serving},
                timeout=settings.notice_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        process.draining.set()
        http.should_exit = True
        await serving
        if process.failed.done():
            process.failed.result()
    finally:
        for task in (opening, waiter, serving):
            if task is not None and not task.done():
                task.cancel()
        await process.close()
        log.info("stopped")


def _is_open(slot: Slot) -> Any:
    async def check() -> bool:
        return slot.mesh is not None

    return check


def main() -> None:
    """Runs the gateway; exits with 2 when a setting is wrong."""
    settings = prepare(GatewaySettings)
    providers = start_telemetry(settings, "gateway", prometheus=True)
    try:
        run_loop(serve(settings))
    except SettingsInvalid as error:
        refuse("gateway", error)
    finally:
        providers.shutdown()


if __name__ == "__main__":
    main()
