"""How every child of the supervisor begins: tied to the supervisor's life, then itself.

    python -m meshkit.supervisor.launch module services.retrieval
    python -m meshkit.supervisor.launch program /path/to/postgres -D ...

Set by the supervisor in the environment (never on the command line, which anyone may read):

- `CITEMESH_SUPERVISOR_PID`: on Linux the kernel signals this process when that parent is gone
  (PR_SET_PDEATHSIG), so a supervisor killed with -9 leaves nothing behind.
- `CITEMESH_SUPERVISOR_FD`: read end of a pipe whose write end only the supervisor holds. End of
  file means the supervisor is gone: the way that also works where there is no prctl.
- `CITEMESH_LAUNCH_UID`, `CITEMESH_LAUNCH_GID`: become this account first (Postgres refuses root).
- `CITEMESH_LAUNCH_DEATH_SIGNAL`: what to receive when the supervisor is gone (default SIGTERM).

The work happens here, after exec, and not in a `preexec_fn`: the supervisor has gRPC threads, and
Python code between fork and exec can deadlock in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
from typing import NoReturn

PR_SET_PDEATHSIG = 1
NOT_RUNNABLE = 126
"""Exit code when the program cannot be run at all, as shells have it."""
HARD_EXIT_AFTER_S = 15.0
"""A child that has not finished draining this long after its supervisor vanished just exits."""


def main(arguments: list[str]) -> None:
    """Ties this process to the supervisor and becomes the program or module asked for."""
    if len(arguments) < 2 or arguments[0] not in ("module", "program"):
        sys.exit("usage: python -m meshkit.supervisor.launch (module NAME | program PATH ARGS...)")
    kind, target = arguments[0], arguments[1]
    supervisor = _take_int("CITEMESH_SUPERVISOR_PID")
    pipe = _take_int("CITEMESH_SUPERVISOR_FD")
    death_signal = _take_int("CITEMESH_LAUNCH_DEATH_SIGNAL") or int(signal.SIGTERM)
    _become(_take_int("CITEMESH_LAUNCH_UID"), _take_int("CITEMESH_LAUNCH_GID"))
    if supervisor is not None:
        # After the change of account: that clears the setting.
        _die_with_parent(supervisor, death_signal)
    if pipe is not None:
        os.set_inheritable(pipe, False)
    if kind == "module":
        if pipe is not None:
            _watch_pipe(pipe, death_signal)
        sys.argv = [target, *arguments[2:]]
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    elif pipe is None or sys.platform == "linux":
        try:
            os.execv(target, arguments[1:])  # noqa: S606
        except OSError as error:
            sys.stderr.write(f"{error.strerror}\n")
            sys.exit(NOT_RUNNABLE)
    else:
        _run_beside_pipe(arguments[1:], pipe, death_signal)


def _take_int(name: str) -> int | None:
    """Reads one of our variables and removes it, so that grandchildren do not act on it."""
    value = os.environ.pop(name, None)
    return int(value) if value else None


def _become(uid: int | None, gid: int | None) -> None:
    if uid is None or os.geteuid() != 0:
        return
    os.setgroups([])
    os.setgid(uid if gid is None else gid)
    os.setuid(uid)


def _die_with_parent(supervisor: int, death_signal: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != supervisor:
        sys.exit("the supervisor was gone before this process started")


def _watch_pipe(pipe: int, death_signal: int) -> None:
    def wait_for_end_of_file() -> None:
        _until_end_of_file(pipe)
        os.kill(os.getpid(), death_signal)
        threading.Event().wait(HARD_EXIT_AFTER_S)
        os._exit(1)

    threading.Thread(target=wait_for_end_of_file, name="supervisor watch", daemon=True).start()


def _until_end_of_file(pipe: int) -> None:
    while os.read(pipe, 1):
        pass


def _run_beside_pipe(command: list[str], pipe: int, death_signal: int) -> NoReturn:
    """Without prctl a foreign program cannot notice the end: stay its parent and tell it."""
    child = subprocess.Popen(command)

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, forward)

    def end_with_supervisor() -> None:
        _until_end_of_file(pipe)
        child.send_signal(death_signal)

    threading.Thread(target=end_with_supervisor, name="supervisor watch", daemon=True).start()
    sys.exit(child.wait())


if __name__ == "__main__":
    main(sys.argv[1:])
