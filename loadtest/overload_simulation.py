"""`python -m loadtest.overload_simulation`: admission lived through on a fake clock.

Answers and searches arrive at random and share two cores, as the mesh on this machine does;
what is let in, waits and is turned away is decided by the limiter that the gateway has. With
no machine in it the same seed gives the same figures, so that policies can be compared, and
a test can hold the limiter to the promise that `make overload` holds the mesh to.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from meshkit.resilience.admission import Kind, Limiter, Policy, Ticket

CORES = 2
SLO_SECONDS = 2.0
SEARCH = Kind("search", target_seconds=0.5)
ANSWER = Kind("answer", cost=8.0, share=0.9, target_seconds=1.0)
CPU_SECONDS = {"search": 0.02, "answer": 0.25}
"""Processor time of each, in the middle; single ones vary as much as questions do."""
ANSWERS = 0.5
"""Part of the requests."""
CAPACITY = CORES / sum(seconds * 0.5 for seconds in CPU_SECONDS.values())
"""Requests a second that keep the cores busy."""
WARM_UP_SECONDS = 10.0


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    rate: float
    work: float
    """Processor seconds a second that went into requests answered within the SLO."""
    answers: float
    """Answers a second within the SLO."""
    p99: float
    """Of everything that was let in, from its arrival."""
    refused: int


@dataclass(slots=True)
class _Job:
    left: float
    kind: Kind
    arrived: float
    began: float


@dataclass(slots=True)
class _Machine:
    """Processor sharing: every job gets as much of the cores as any other."""

    jobs: list[_Job] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return min(1.0, CORES / len(self.jobs)) if self.jobs else 1.0

    def next_end(self, now: float) -> float:
        left = min((job.left for job in self.jobs), default=float("inf"))
        return now + left / self.speed

    def work(self, seconds: float) -> None:
        done = seconds * self.speed
        for job in self.jobs:
            job.left -= done


def run(rate: float, policy: Policy, seconds: float = 60.0, seed: int = 1) -> Outcome:
    """Offers `rate` requests a second."""
    chance = random.Random(seed)
    limiter = Limiter((SEARCH, ANSWER), policy, 0.0)
    machine, waiting = _Machine(), dict[Ticket, float]()
    ended: list[tuple[float, _Job]] = []
    now, arrival, refused = 0.0, chance.expovariate(rate), 0

    def begin(kind: Kind, arrived: float) -> None:
        cpu = CPU_SECONDS[kind.name] * chance.lognormvariate(-0.08, 0.4)
        machine.jobs.append(_Job(cpu, kind, arrived, now))

    def let_in(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            begin(ticket.kind, waiting.pop(ticket))

    while now < seconds:
        end = machine.next_end(now)
        patience = min((ticket.until for ticket in waiting), default=float("inf"))
        moment = min(end, patience, arrival)
        machine.work(moment - now)
        now = moment
        if moment == arrival:
            arrival = now + chance.expovariate(rate)
            kind = ANSWER if chance.random() < ANSWERS else SEARCH
            if limiter.enter(kind):
                begin(kind, now)
            elif (ticket := limiter.wait(kind, now)) is not None:
                waiting[ticket] = now
            else:
                refused += 1
        elif moment == patience:
            ticket = min(waiting, key=lambda one: one.until)
            del waiting[ticket]
            refused += 1
            let_in(limiter.withdraw(ticket, now))
        else:
            job = min(machine.jobs, key=lambda one: one.left)
            machine.jobs.remove(job)
            ended.append((now, job))
            let_in(limiter.observe(job.kind, now - job.began, now))
            let_in(limiter.leave(job.kind, now))
    return _outcome(
        rate, [(at, job) for at, job in ended if at > WARM_UP_SECONDS], seconds, refused
    )


def _outcome(rate: float, ended: list[tuple[float, _Job]], seconds: float, refused: int) -> Outcome:
    measured = seconds - WARM_UP_SECONDS
    took = sorted(at - job.arrived for at, job in ended)
    good = [job.kind.name for at, job in ended if at - job.arrived <= SLO_SECONDS]
    return Outcome(
        rate=rate,
        work=sum(CPU_SECONDS[name] for name in good) / measured,
        answers=good.count("answer") / measured,
        p99=took[int(len(took) * 0.99)] if took else float("nan"),
        refused=refused,
    )


POLICIES = {
    "500 at once": Policy(500 * ANSWER.cost, adaptive=False),
    "8 at once": Policy(8 * ANSWER.cost, adaptive=False),
    "adaptive": Policy(500 * ANSWER.cost, least=ANSWER.cost, start=16 * ANSWER.cost),
    "adaptive, patience 1 s": Policy(
        500 * ANSWER.cost, least=8, start=128, patience_seconds=1, short_patience_seconds=1
    ),
}


def main() -> None:
    """A table of policies and loads."""
    print(f"{'policy':24}{'load':>6}{'work':>8}{'answers/s':>11}{'p99 s':>8}{'refused':>9}")
    for name, policy in POLICIES.items():
        for load in (0.7, 1.0, 2.0, 3.0):
            found = run(load * CAPACITY, policy)
            print(
                f"{name:24}{load:>5.1f}x{found.work:>8.2f}{found.answers:>11.1f}"
                f"{found.p99:>8.2f}{found.refused:>9}"
            )


if __name__ == "__main__":
    main()
