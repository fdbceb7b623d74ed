"""One replica, kept as a kubelet keeps a pod: probed, restarted when it dies, ended gracefully."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from tools.pods.derive import Pod, Probe
from tools.pods.ground import Ground
from tools.pods.probes import passes


class Replica:
    """A container of a Deployment.

    Args:
        ground: Where it runs.
        name: Its own.
        pod: What it is.
        aliases: Names of the Services it is behind.
        changed: Called whenever it becomes ready, or is no longer.
    """

    def __init__(
        self,
        ground: Ground,
        name: str,
        pod: Pod,
        aliases: list[str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.pod = pod
        self.address = ""
        self.ready = False
        self.restarts = 0
        self._ground = ground
        self._aliases = aliases
        self._changed = changed
        self._process = 0
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Makes and starts the container; from now on it is kept."""
        await asyncio.to_thread(self._ground.create, self.name, self.pod, self._aliases)
        await self._run()
        self._keeping = asyncio.create_task(self._keep(), name=self.name)

    def kill(self) -> None:
        """Ends its process at once, as a crash or the kernel would; it is started again."""
        os.kill(self._process, signal.SIGKILL)

    async def end(self) -> None:
        """Takes it out of its Service, lets it end its calls, and removes it."""
        self._tell(ready=False)
        if self._keeping is None:
            # It never ran; what there is of it goes with the network.
            return
        self._keeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeping
        await asyncio.sleep(self.pod.pause_seconds)
        left = self.pod.grace_seconds - self.pod.pause_seconds
        await asyncio.to_thread(
            self._ground.podman, "stop", f"--time={left:.0f}", self.name, timeout=left + 60
        )
        await asyncio.to_thread(self._ground.remove, self.name)

    async def _run(self) -> None:
        self.address, self._process = await asyncio.to_thread(self._ground.start, self.name)

    async def _keep(self) -> None:
        while True:
            probing = asyncio.create_task(self._probe())
            died = asyncio.create_task(end_of(self._process))
            try:
                await asyncio.wait({probing, died}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (probing, died):
                    task.cancel()
                ended = await asyncio.gather(probing, died, return_exceptions=True)
            self._tell(ready=False)
            for each in ended:
                if isinstance(each, Exception):
                    raise each
            self.restarts += 1
            await asyncio.to_thread(self._ground.podman, "stop", "--time=0", self.name)
            await self._run()

    async def _probe(self) -> None:
        """Returns when the container is to be restarted."""
        if self.pod.startup and not await self._passes_in_time(self.pod.startup):
            return
        asked = [asyncio.create_task(self._watch_readiness())]
        if self.pod.liveness:
            asked.append(asyncio.create_task(self._until_dead(self.pod.liveness)))
        try:
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _passes_in_time(self, probe: Probe) -> bool:
        await asyncio.sleep(probe.initial_delay_seconds)
        for _ in range(probe.failure_threshold):
            if await passes(self.address, probe):
                return True
            await asyncio.sleep(probe.period_seconds)
        return False

    async def _watch_readiness(self) -> None:
        probe = self.pod.readiness
        if probe is None:
            self._tell(ready=True)
            await asyncio.Event().wait()
            return
        failures = 0
        while True:
            failures = 0 if await passes(self.address, probe) else failures + 1
            if failures == 0 or failures >= probe.failure_threshold:
                self._tell(ready=failures == 0)
            await asyncio.sleep(probe.period_seconds)

    async def _until_dead(self, probe: Probe) -> None:
        failures = 0
        while failures < probe.failure_threshold:
            failures = 0 if await passes(self.address, probe) else failures + 1
            await asyncio.sleep(probe.period_seconds)

    def _tell(self, *, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._changed()


async def end_of(process: int) -> None:
    """Returns when a process of this machine, child of ours or not, has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
