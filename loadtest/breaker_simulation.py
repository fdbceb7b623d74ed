"""`make breaker-simulation`: two triggers and their ladders, lived through on a fake clock.

The published trigger opens after two failures in a row; ours asks for a failure rate where
there is traffic to have one. Both see the same calls. Prints a table, then one JSON object.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from meshkit.resilience.breaker import Breaker, Fault, Pass, Policy, State

HOUR, DAY = 3_600.0, 86_400.0
OURS = Policy()
PUBLISHED = Policy(
    # A window that is never full: two failures in a row decide, whatever the traffic.
    window_calls=sys.maxsize,
    transient_ladder=OURS.account_ladder,
    ramp_seconds=1e-9,
)


@dataclass(frozen=True, slots=True)
class Story:
    """What happens to a provider."""

    name: str
    seconds: float
    calls_per_second: float
    error_share: Callable[[float], float]
    """Share of calls that fail at a time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a breaker made of it."""

    story: str
    trigger: str
    opened: int
    """Times it opened or opened again."""
    dark_share: float
    """Share of the calls that it kept from the provider."""
    failed_share: float
    """Share of the calls that reached the provider and failed."""
    recovered_after_s: float | None
    """From the end of the outage to the first call that was answered."""


STORIES = (
    Story("1 % random errors, an hour", HOUR, 100.0, lambda _: 0.01),
    Story("5 % random errors, an hour", HOUR, 100.0, lambda _: 0.05),
    Story("dead for 30 s", HOUR, 100.0, lambda at: float(60 <= at < 90)),
    Story("dead for 10 min", 2 * HOUR, 100.0, lambda at: float(60 <= at < 660)),
    Story("half of the calls fail for 10 min", HOUR, 100.0, lambda at: 0.6 * (60 <= at < 660)),
    Story("dead for 24 h", DAY + 2 * HOUR, 10.0, lambda at: float(at < DAY)),
)


def live(story: Story, trigger: str, policy: Policy, seed: int) -> Outcome:
    """One provider's story behind one breaker; the same seed gives the same calls."""
    calls, jitter = random.Random(seed), random.Random(seed + 1)
    breaker = Breaker(policy, jitter.random)
    opened = dark = failed = count = 0
    ended: float | None = None
    recovered: float | None = None
    while (now := count / story.calls_per_second) < story.seconds:
        count += 1
        share, dice = story.error_share(now), calls.random()
        if share >= 1:
            ended, recovered = None, None
        elif ended is None:
            ended = now
        leave = breaker.admit(now)
        if not isinstance(leave, Pass):
            dark += 1
        elif dice < share:
            failed += 1
            breaker.failed(leave, now, Fault.TRANSIENT)
            opened += breaker.view(now).state is State.OPEN
        else:
            breaker.succeeded(leave, now)
            if ended is not None and recovered is None:
                recovered = now - ended
    outage = story.error_share(60.0) >= 1
    return Outcome(
        story.name, trigger, opened, dark / count, failed / count, recovered if outage else None
    )


def main() -> int:
    """Prints every story under both triggers."""
    outcomes = [
        live(story, trigger, policy, seed=7)
        for story in STORIES
        for trigger, policy in (("published", PUBLISHED), ("citemesh", OURS))
    ]
    print(f"{'story':36} {'trigger':10} {'opened':>6} {'dark':>8} {'failed':>8} {'back after':>11}")
    for one in outcomes:
        back = "" if one.recovered_after_s is None else f"{one.recovered_after_s:.1f} s"
        print(
            f"{one.story:36} {one.trigger:10} {one.opened:6} {one.dark_share:8.2%}"
            f" {one.failed_share:8.3%} {back:>11}"
        )
    print(json.dumps({"stories": [asdict(one) for one in outcomes]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
