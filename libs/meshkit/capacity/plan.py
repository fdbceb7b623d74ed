"""From a target to a plan: replicas, databases, quotas and money, with one of each lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshkit.capacity.measured import Measured
from meshkit.capacity.model import (
    BUSY,
    MANY_PROCESSES,
    cores_of,
    most_on_this_machine,
    on_a_cluster,
)

BUSY_WITH_ONE_LOST = 0.8
FEWEST = 2
"""Replicas of anything that answers: one may be lost."""
MOST_REPLICAS = 5000
POSTGRES_CORES = (2, 4, 8, 16, 32, 48, 64, 96, 128)
LOST_SERVICES_SHARE = "one replica of each service, and Postgres on its standby"

# Bytes of a chunk of 200 tokens; docs/operations/dense-index.md measured the second.
ROW_BYTES = 2_600
"""Text, heading path, spans and a halfvec of 384 values in the table."""
INDEX_BYTES = 1_200
"""In the HNSW index, which has to be in memory."""
LEXICAL_BYTES = 2_000
"""In OpenSearch, text and postings."""
SHARD_BYTES = 30e9
LEXICAL_CPU_S = 0.004
"""Of one search in OpenSearch: assumed, not measured (the report's mesh searches in retrieval)."""
NODE_CORES = 8
ANSWERS = frozenset({"answer", "cached_answer"})


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for."""

    per_second: float
    """Requests of every kind."""
    slo_p95_s: float
    """For a new answer, to its end."""
    mix: Mapping[str, float]
    """Shares of the classes."""
    chunks: int
    slo_class: str = "answer"

    @property
    def rates(self) -> dict[str, float]:
        """Requests a second by class."""
        return {name: share * self.per_second for name, share in self.mix.items()}


@dataclass(frozen=True, slots=True)
class Service:
    """One row of the plan."""

    name: str
    replicas: int
    cores: float
    """Busy on average, of all replicas together."""
    busy: float
    """Share of each replica."""
    busy_with_one_lost: float
    memory_mb: float
    """Of one replica, as measured."""


@dataclass(frozen=True, slots=True)
class Providers:
    """What has to be bought."""

    answers_per_minute: float
    input_tokens_per_minute: float
    output_tokens_per_minute: float
    reranks_per_minute: float
    usd_per_1000_questions: float


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer to a target."""

    target: Target
    feasible: bool
    why_not: str
    services: tuple[Service, ...]
    postgres_cores: int
    postgres_busy: float
    postgres_memory_gb: float
    """For the vector index and as much again for rows and sorting."""
    postgres_disk_gb: float
    opensearch_nodes: int
    opensearch_shards: int
    opensearch_memory_gb: float
    """Of each node; half of it is the heap."""
    providers: Providers
    p95_s: float
    p95_with_one_lost_s: float
    floor_p95_s: float
    """Without any queue: what no number of replicas gets below."""
    here_per_s: float
    """What the measured machine carries of this mix."""
    here_limit: str
    notes: tuple[str, ...] = field(default=())


def plan(measured: Measured, target: Target) -> Plan:
    """The smallest plan that keeps every limit, also with one replica of each service lost."""
    cores = cores_of(measured, target.rates, BUSY)
    servers = {
        name: _postgres(used) if name in MANY_PROCESSES else _replicas(used)
        for name, used in cores.items()
    }
    floor = measured.rest_latency[target.slo_class].p95
    why_not = ""
    if floor > target.slo_p95_s:
        why_not = (
            f"Alone, without any queue, 95 % of the answers took up to {floor * 1e3:.0f} ms, more "
            f"than the {target.slo_p95_s * 1e3:.0f} ms asked for: no number of replicas changes "
            "that. A faster model, fewer tokens or a cache would."
        )
    else:
        servers = _until_fast_enough(measured, target, servers)
    p95 = on_a_cluster(measured, target.rates, servers).p95_s[target.slo_class]
    lost = on_a_cluster(measured, target.rates, _one_lost(servers)).p95_s[target.slo_class]
    if not why_not and lost > target.slo_p95_s:
        why_not = f"Not within {MOST_REPLICAS} replicas of a service."
    here, limit = most_on_this_machine(measured, target.mix)
    postgres = servers.get("postgres", 0)
    shards = max(1, math.ceil(target.chunks * LEXICAL_BYTES / SHARD_BYTES))
    searches = sum(rate for name, rate in target.rates.items() if name in ("answer", "search"))
    return Plan(
        target=target,
        feasible=not why_not,
        why_not=why_not,
        services=tuple(
            _service(measured, name, servers[name], cores[name])
            for name in sorted(servers)
            if name not in MANY_PROCESSES
        ),
        postgres_cores=postgres,
        postgres_busy=cores.get("postgres", 0.0) / postgres if postgres else 0.0,
        postgres_memory_gb=2 * target.chunks * INDEX_BYTES / 1e9 + 1,
        postgres_disk_gb=target.chunks * (ROW_BYTES + INDEX_BYTES) * 1.5 / 1e9 + 1,
        opensearch_nodes=max(3, math.ceil(searches * LEXICAL_CPU_S / (NODE_CORES * BUSY)) + 1),
        opensearch_shards=shards,
        opensearch_memory_gb=max(4.0, 2 * target.chunks * LEXICAL_BYTES / max(3, shards) / 1e9),
        providers=_providers(measured, target),
        p95_s=p95,
        p95_with_one_lost_s=lost,
        floor_p95_s=floor,
        here_per_s=here,
        here_limit=limit,
        notes=_notes(measured, target, here, limit, postgres, cores),
    )


def _replicas(cores: float) -> int:
    usual = math.ceil(cores / BUSY)
    with_one_lost = math.ceil(cores / BUSY_WITH_ONE_LOST) + 1
    return max(FEWEST, usual, with_one_lost)


def _postgres(cores: float) -> int:
    """Cores of one server; the next size that is sold, or as many as it takes on paper."""
    wanted = cores / BUSY
    return next((size for size in POSTGRES_CORES if size >= wanted), math.ceil(wanted))


def _one_lost(servers: Mapping[str, int]) -> dict[str, int]:
    return {
        name: count if name in MANY_PROCESSES else max(1, count - 1)
        for name, count in servers.items()
    }


def _until_fast_enough(
    measured: Measured, target: Target, servers: dict[str, int]
) -> dict[str, int]:
    """Adds a tenth more where it helps most until the objective holds with one of each lost."""

    def p95(found: Mapping[str, int]) -> float:
        return on_a_cluster(measured, target.rates, _one_lost(found)).p95_s[target.slo_class]

    servers = dict(servers)
    while p95(servers) > target.slo_p95_s and max(servers.values()) < MOST_REPLICAS:
        more = {
            name: {**servers, name: count + max(1, count // 10)} for name, count in servers.items()
        }
        best = min(more, key=lambda name: p95(more[name]))
        if p95(more[best]) >= p95(servers):
            break
        servers = more[best]
    return servers


def _service(measured: Measured, name: str, replicas: int, cores: float) -> Service:
    return Service(
        name,
        replicas,
        cores,
        cores / replicas,
        cores / max(1, replicas - 1),
        measured.memory_mb.get(name, 0.0),
    )


def _providers(measured: Measured, target: Target) -> Providers:
    answers = target.rates.get("answer", 0.0) * 60
    questions = sum(target.mix.get(name, 0.0) for name in ANSWERS)
    new = target.mix.get("answer", 0.0) / questions if questions else 0.0
    return Providers(
        answers_per_minute=answers,
        input_tokens_per_minute=answers * measured.answer_tokens_in,
        output_tokens_per_minute=answers * measured.answer_tokens_out,
        reranks_per_minute=answers + target.rates.get("search", 0.0) * 60,
        usd_per_1000_questions=1000 * new * measured.answer_cost_usd,
    )


def _notes(
    measured: Measured,
    target: Target,
    here: float,
    limit: str,
    postgres: int,
    cores: Mapping[str, float],
) -> tuple[str, ...]:
    full = (
        f"The measured machine has {measured.cores} cores and is full at {here:.1f} requests a "
        f"second of this mix ({limit}). More replicas on it add nothing: they share the same cores."
    )
    notes = [full]
    unknown = sorted(set(target.mix) - set(measured.demands))
    if unknown:
        notes.append(
            f"The report measured no {', '.join(unknown)}: planned as if they cost nothing."
        )
    factor = target.per_second / here if here else math.inf
    if factor > 20:
        notes.append(
            f"This is {factor:.0f} times what was measured. Demands are taken as constant, which a "
            "hundredfold corpus and a cluster's network do not keep: measure again on the way."
        )
    if postgres > POSTGRES_CORES[-1]:
        notes.append(
            f"Postgres would need {cores['postgres']:.0f} busy cores, more than one server has: "
            "split by project (docs/capacity.md)."
        )
    notes.append(
        f"OpenSearch's processor time is assumed ({LEXICAL_CPU_S * 1e3:.0f} ms a search); replicas "
        "are counted at one core each; lost is " + LOST_SERVICES_SHARE + "."
    )
    return tuple(notes)
