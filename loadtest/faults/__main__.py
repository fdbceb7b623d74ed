"""`python -m loadtest.faults`: a line a case, one JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtest.bench.running import await_ready, read_chunks, running_mesh, upload
from loadtest.faults import beside
from loadtest.faults.asking import Found, ask, breakers, clear, search
from loadtest.faults.cases import LEGS, SHORT, Case, Leg
from loadtest.faults.judging import Verdict, compare, judge, total, words
from loadtest.simulator.faults import FaultKind
from loadtest.simulator.running import RunningSimulator
from meshkit.providers import catalogue

SAMPLES = Path(__file__).parents[2] / "tests" / "samples"
DOCUMENTS = ("employee-handbook.pdf", "security-policy.docx", "incident-cold-store.html")
DEADLINE = 12.0
"""Seconds an answer may take."""
MARGIN = 0.5
"""For the way to the caller."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A mesh to try faults on."""

    leg: Leg
    http: httpx.Client
    providers: RunningSimulator
    documents: str
    """Every word of the documents, in order."""
    usual: Found
    """The search while everything works."""


def unlimited(folder: Path) -> Path:
    """A catalogue without limits: the matrix asks more a minute than the lowest tier allows."""
    lines = []
    for model in catalogue.load().models:
        lines += [
            "[[model]]",
            f'provider = "{model.provider}"',
            f'operation = "{model.operation}"',
            f'model = "{model.model}"',
            "requests_per_minute = 0",
            "tokens_per_minute = 0",
            "requests_per_day = 0",
        ]
    path = folder / "catalogue.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def mesh_of(leg: Leg, providers: RunningSimulator) -> Iterator[Tried]:
    """A mesh over the simulator's HTTPS ports, with documents in it."""
    with tempfile.TemporaryDirectory(prefix="citemesh-faults-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        environment = {
            **providers.secure_environment(),
            "CITEMESH_PROVIDER_CATALOGUE": str(unlimited(folder)),
            "CITEMESH_EMBEDDING_SPACES": leg.space,
            "CITEMESH_GENERATION_PROVIDERS": leg.generation,
            "CITEMESH_RERANK_PROVIDERS": "cohere,local",
            "CITEMESH_GENERATION_FIRST_WORD_SECONDS": "2",
            "CITEMESH_GATEWAY_ANSWER_SECONDS": str(DEADLINE),
        }
        providers.reset()
        with running_mesh(folder / "data", environment) as mesh, mesh.client() as http:
            texts: list[str] = []
            for file in DOCUMENTS:
                document = upload(http, file, (SAMPLES / file).read_bytes())
                await_ready(http, document)
                texts += read_chunks(http, document)
            clear(http, providers)
            yield Tried(leg, http, providers, words(" ".join(texts)), search(http))


def try_case(tried: Tried, case: Case) -> Verdict:
    """Sets the fault, asks, and judges what the caller saw; a search where vectors are at stake."""
    clear(tried.http, tried.providers)
    tried.providers.fault(**case.fault())
    seen = ask(tried.http)
    verdict = judge(case, tried.leg, seen, tried.documents, DEADLINE + MARGIN)
    verdict.retries = tried.providers.retries(case.provider, case.operation)
    verdict.breaker = breakers(tried.http, case.provider, case.operation)
    if case.operation in ("embed", "*"):
        for broken in (True, False):
            # And once more when it is over: a vector that did not fit was kept nowhere.
            if not broken:
                clear(tried.http, tried.providers)
            wrong, mixed = compare(case, tried.usual, search(tried.http))
            verdict.wrong += wrong
            verdict.mixed_vectors += mixed
        verdict.answered &= not verdict.wrong
    return verdict


def run_leg(
    leg: Leg, providers: RunningSimulator, rounds: int, kind: str | None
) -> tuple[list[Verdict], list[beside.Beside]]:
    """Every case of a leg, shown as it ends."""
    print(f"\n{leg.name}: answers by {leg.generation}; vectors of {leg.space}", flush=True)
    verdicts: list[Verdict] = []
    with mesh_of(leg, providers) as tried:
        for case in leg.cases():
            if kind not in (None, str(case.kind)):
                continue
            verdicts.append(try_case(tried, case))
            print(verdicts[-1].row(), flush=True)
        found = beside.measure(tried.http, providers, rounds) if leg.beside and rounds else []
    if found:
        print("\nmilliseconds of a stage: median [95 % interval] without and beside a fault")
        print("\n".join(each.row() for each in found), flush=True)
    return verdicts, found


def main() -> int:
    """Reads the options, runs, prints; 1 when something must not be so."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a handful of cases")
    parser.add_argument("--leg", choices=[leg.name for leg in LEGS], help="only this one")
    parser.add_argument("--kind", choices=[str(kind) for kind in FaultKind], help="only this one")
    parser.add_argument("--rounds", type=int, default=25, help="answers beside each fault")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    began = time.monotonic()
    legs = [leg for leg in (SHORT if options.short else LEGS) if options.leg in (None, leg.name)]
    verdicts: list[Verdict] = []
    others: list[beside.Beside] = []
    with RunningSimulator.start("--tls") as providers:
        for leg in legs:
            found, measured = run_leg(leg, providers, options.rounds, options.kind)
            verdicts += found
            others += measured
    summed = dict(total(verdicts))
    whole = summed["answered"] + summed["refused_clearly"] == summed["cases"]
    holds = whole and not any(summed[name] for name in ("wrong", "over_deadline", "mixed_vectors"))
    slower = sum(not each.holds for each in others)
    result = {
        **summed,
        "slower_beside": slower,
        "beside": beside.report(others),
        "seconds": round(time.monotonic() - began, 1),
        "holds": holds and not slower,
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
