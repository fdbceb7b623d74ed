"""`python -m loadtest.messy DIR`: a table of what became of each file, JSON as the last line.

`--fuzz N` uploads N broken copies of the files besides; `--pages N` a PDF of N pages.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pypdfium2  # type: ignore[import-untyped]

from loadtest.bench.running import RunningMesh, running_mesh
from loadtest.messy.mutation import Mutant, mutants
from loadtest.messy.observed import Outcome, codes_of_dead_readers, observe, peaks

ROOT = Path(__file__).resolve().parents[2]
FILINGS = ROOT.parent / "shared" / "data" / "pdfqa-kgrag" / "pdfs"
SAMPLES = ROOT / "tests" / "samples"
NO_FILES = ("MANIFEST.tsv",)
AT_ONCE = 4
READABLE_SHARE = 0.99
PEAK_MB = 1000.0
FIRST_PROGRESS_S = 3.0
"""The lease, which carries progress, is extended every second, and the first must be claimed."""


def readable_by_people(outcome: Outcome) -> bool:
    """Whether a failure is not the file's. One that stopped its reader may be the reader's."""
    ours = "stops its reader" in outcome.detail
    return ours or outcome.reason not in ("FILE_ENCRYPTED", "FILE_CORRUPT", "FILE_EMPTY")


def observed_all(mesh: RunningMesh, files: list[Mutant], within: float) -> list[Outcome]:
    """Outcomes in the order of the files, a few uploaded at a time."""

    def one(file: Mutant) -> Outcome:
        with mesh.client() as client:
            try:
                return observe(client, file.name, file.content, within)
            except httpx.HTTPError as error:
                return Outcome(file.name, "error", type(error).__name__)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, files))


def long_pdf(pages: int) -> bytes:
    """A PDF of so many pages of the filings, or of the sample handbook without them."""
    sources = sorted(FILINGS.glob("*.pdf")) or sorted(SAMPLES.glob("*.pdf"))
    whole = pypdfium2.PdfDocument.new()
    while len(whole) < pages:
        for source in sources:
            with pypdfium2.PdfDocument(source) as document:
                wanted = min(len(document), pages - len(whole))
                if wanted:  # an empty list stands for all of them
                    whole.import_pages(document, list(range(wanted)))
    out = io.BytesIO()
    whole.save(out)
    return out.getvalue()


def table(outcomes: list[Outcome], memory: dict[str, float]) -> None:
    """A row per file."""
    width = max(len(outcome.name) for outcome in outcomes)
    titles = f"{'characters':>10} {'pages':>5} {'seconds':>7} {'peak MB':>7}"
    print(f"{'file':{width}} {'state':9} {'reason':22} {titles}")
    for found in outcomes:
        peak = memory.get(found.document, 0.0)
        figures = f"{found.characters:>10} {found.pages:>5} {found.seconds:>7.1f} {peak:>7.0f}"
        print(f"{found.name:{width}} {found.state:9} {found.reason:22} {figures}")
        if found.detail:
            print(f"{'':{width}} {found.detail}")


def leaks(mesh: RunningMesh, before: set[Path]) -> list[str]:
    """Files in the folder for temporary ones, and readers, that nobody took away."""
    left = [str(path) for path in set(Path(mesh.data.parent, "tmp").rglob("*")) - before]
    for process in mesh.processes():
        command = " ".join(process.cmdline())
        if "extraction.worker" in command or "tesseract" in command:
            left.append(command[:80])
    return left


def pids(mesh: RunningMesh) -> set[int]:
    """Process ids of the services: a crash changes them."""
    state = json.loads((mesh.data / "state.json").read_text())
    return {child["pid"] for child in state["children"]}


def report(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The whole run against a mesh of its own."""
    paths = sorted(path for path in options.directory.iterdir() if path.is_file())
    files = [(path.name, path.read_bytes()) for path in paths if path.name not in NO_FILES]
    (home / "tmp").mkdir(mode=0o777)
    (home / "tmp").chmod(0o1777)
    with running_mesh(home / "data", {"TMPDIR": str(home / "tmp")}) as mesh:
        log = mesh.data / "logs" / "ingestion.log"
        services, temporary = pids(mesh), set((home / "tmp").rglob("*"))
        outcomes = observed_all(mesh, [Mutant(*file) for file in files], options.within)
        table(outcomes, peaks(log))
        deaths = codes_of_dead_readers(log)
        fuzzed = observed_all(
            mesh, list(mutants(files, options.fuzz, options.seed)), options.within
        )
        result = summary(outcomes)
        result["readers_died"] = deaths
        if options.fuzz:
            result["fuzz"] = fuzz_summary(fuzzed)
        if options.pages:
            result["long_pdf"] = long_summary(mesh, options, log)
        result["crashed"] = len(services - pids(mesh))
        result["leaked"] = leaks(mesh, temporary)
        result["peak_mb"] = round(max(peaks(log).values(), default=0.0), 1)
    return result


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts of the files as they are."""
    readable = [outcome for outcome in outcomes if readable_by_people(outcome)]
    ready = [outcome for outcome in outcomes if outcome.state == "ready"]
    return {
        "files": len(outcomes),
        "ready": len(ready),
        "failed": len([found for found in outcomes if found.settled]) - len(ready),
        "unexplained": len([found for found in outcomes if not found.explained]),
        "stuck": [found.name for found in outcomes if not found.settled],
        "readable_share": round(len(ready) / max(1, len(readable)), 4),
    }


def fuzz_summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts of the broken files, printed with those that ended without an explanation."""
    bad = [found for found in outcomes if not (found.settled and found.explained)]
    for found in bad:
        print(f"fuzz {found.name}: {found.state} {found.reason} {found.detail}")
    ends = Counter(found.reason or found.state for found in outcomes)
    print("fuzz:", ", ".join(f"{reason} {count}" for reason, count in ends.most_common()))
    return {"files": len(outcomes), "ready": ends["ready"], "bad": len(bad)}


def long_summary(mesh: RunningMesh, options: argparse.Namespace, log: Path) -> dict[str, Any]:
    """What a long PDF took. Embedding its chunks takes minutes; reading it is what is measured."""
    with mesh.client() as client:
        name = f"{options.pages}-pages.pdf"
        found = observe(client, name, long_pdf(options.pages), options.long_within)
    peak = peaks(log).get(found.document, 0.0)
    print(f"{name}: {found.state}, {found.chunks} chunks, {found.seconds:.0f} s, {peak:.0f} MB")
    return {
        "pages": options.pages,
        "state": found.state,
        "peak_mb": peak,
        "first_progress_s": round(found.first_progress_s or -1.0, 2),
        "seconds": round(found.seconds, 1),
    }


def holds(result: dict[str, Any]) -> bool:
    """Whether everything that was promised is so."""
    long = result.get("long_pdf")
    return (
        not result["unexplained"]
        and not result["crashed"]
        and not result["leaked"]
        and not result["stuck"]
        and result["readable_share"] >= READABLE_SHARE
        and not result.get("fuzz", {}).get("bad")
        and (
            long is None
            or (long["peak_mb"] <= PEAK_MB and 0 <= long["first_progress_s"] <= FIRST_PROGRESS_S)
        )
    )


def main() -> None:
    """Runs and prints; exits 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="files of any kind")
    parser.add_argument("--fuzz", type=int, default=0, help="broken copies to upload besides")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pages", type=int, default=0, help="a PDF of so many pages besides")
    parser.add_argument("--within", type=float, default=300.0, help="seconds a file may take")
    parser.add_argument("--long-within", type=float, default=1800.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="citemesh-messy-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        result = report(options, home)
    print(json.dumps(result))
    sys.exit(0 if holds(result) else 1)


if __name__ == "__main__":
    main()
