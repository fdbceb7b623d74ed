"""Asking a running mesh many things, some at once, and patiently where it is busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from meshkit.cli.client import Client, Json, Target
from meshkit.cli.evaluate_corpus import bar
from meshkit.cli.failure import CommandFailed

ATTEMPTS = 6
BUSY = {429, 503}

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


def in_turn(
    target: Target,
    items: Sequence[Asked],
    ask: Callable[[Client, Asked], Answered],
    *,
    clients: int,
    about: str,
) -> tuple[list[Answered], float]:
    """Asks every item once, `clients` at a time, each over a connection of its own.

    Returns:
        What came back, in the order of the items, and the seconds it took.

    Raises:
        CommandFailed: the mesh refuses, or stays busy.
    """
    waiting = iter(enumerate(items))
    lock = Lock()
    found: dict[int, Answered] = {}
    at_once = f" x {clients}" if clients > 1 else ""
    with bar() as progress:
        task = progress.add_task(f"{about}{at_once}", total=len(items))

        def work() -> None:
            with Client(target) as client:
                while True:
                    with lock:
                        place, item = next(waiting, (-1, None))
                    if item is None:
                        return
                    found[place] = ask(client, item)
                    progress.advance(task)

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(work) for _ in range(clients)]:
                done.result()
        seconds = time.perf_counter() - began
    return [found[place] for place in range(len(items))], seconds


def patiently(client: Client, path: str, body: Json) -> tuple[float, Json]:
    """How long the call that was answered took, in milliseconds, and its answer.

    A busy mesh is asked again.
    """
    for attempt in range(ATTEMPTS):
        began = time.perf_counter()
        try:
            answer = client.request("POST", path, json=body)
            return (time.perf_counter() - began) * 1000, answer
        except CommandFailed as failure:
            if failure.status not in BUSY or attempt == ATTEMPTS - 1:
                raise
            time.sleep(2**attempt / 4)
    raise AssertionError("the last attempt returns or raises")
