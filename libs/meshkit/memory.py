"""How often a process looks for objects that nobody needs any more."""

from __future__ import annotations

import gc

COLLECT_EVERY = 5_000, 20, 20
"""Objects more than were freed, after which the young ones are looked through, and how often that
happens before the older ones are. Python's 700, 10, 10 are reached several times within an answer:
5 to 6 % of a busy process's time, 9 ms of it in one piece now and then, 70 ms at worst. From 20,000
on the young ones alone take 30 ms."""


def settle_memory() -> None:
    """Lets the garbage collector walk less in the middle of somebody's request.

    What a process holds for its whole life (modules, settings, descriptors: some hundred thousand
    objects) is never looked through again, and what came since less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)
