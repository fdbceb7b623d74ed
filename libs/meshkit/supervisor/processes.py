"""Waiting for processes that are not our children to end."""

from __future__ import annotations

import time

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Whether the process is gone; one nobody collected (a zombie) counts as gone."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_ended(process: psutil.Process, timeout: float) -> bool:
    """Waits until the process has ended, at most `timeout` seconds; returns whether it has."""
    deadline = time.monotonic() + timeout
    while not has_ended(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
