"""`citemesh up --detach`: a supervisor of its own session; this process waits until it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from meshkit.supervisor.layout import DataDirectory
from meshkit.supervisor.mesh import StartFailed

READY_FD = "CITEMESH_READY_FD"
TAIL_LINES = 12


def detach(data: DataDirectory, arguments: Sequence[str]) -> int:
    """Starts `citemesh up` with `arguments` in the background; returns its process id when ready.

    Raises:
        StartFailed: it ended before it was ready; the text has the last lines it wrote.
    """
    data.create()
    ours, theirs = os.pipe()
    with data.detached_log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "meshkit.cli", "up", *arguments],
            env={**os.environ, READY_FD: str(theirs)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(theirs,),
        )
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb") as pipe:
            ready = pipe.readline().strip() == b"ready"
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if not ready:
        process.wait()
        lines = data.detached_log.read_text(errors="replace").splitlines()
        raise StartFailed("\n".join(lines[-TAIL_LINES:]) or "the supervisor ended without a word")
    return process.pid


def ready_fd() -> int | None:
    """The descriptor to report readiness on, when this process was started by `detach`."""
    value = os.environ.pop(READY_FD, "")
    if not value:
        return None
    descriptor = int(value)
    os.set_inheritable(descriptor, False)
    return descriptor
