"""`citemesh down`: tells the supervisor of a data directory to stop, and waits until it has."""

from __future__ import annotations

import signal

import psutil

from meshkit.supervisor.layout import DataDirectory, Holder, holder
from meshkit.supervisor.processes import wait_ended

TIMEOUT_S = 90.0


class StillRunning(Exception):
    """The supervisor did not stop in time."""


def down(data: DataDirectory, timeout: float = TIMEOUT_S) -> Holder | None:
    """Stops the mesh of `data`; returns who held it, None when nobody did.

    Raises:
        StillRunning: it was told to stop and has not after `timeout` seconds.
    """
    found = holder(data)
    if found is None:
        return None
    try:
        process = psutil.Process(found.pid)
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return found
    if not wait_ended(process, timeout):
        raise StillRunning(f"process {found.pid} has not stopped after {timeout:g} s")
    return found
