"""`citemesh load SCENARIO`: the load scenarios, which come with the source tree alone."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from meshkit.cli.failure import CommandFailed

TREE = Path(__file__).resolve().parents[3]
"""Where the sources lie, if this package was installed from them in place."""

Scenario = Annotated[str, typer.Argument(metavar="SCENARIO", help="`steady`, `peak`, `ramp`, ...")]
Short = Annotated[bool, typer.Option("--short", help="Minutes instead of an hour.")]
Knee = Annotated[
    float | None,
    typer.Option(
        "--knee", min=0.001, help="Requests a second at the knee.", show_default="measured"
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the report.")]


def load(
    scenario: Scenario, short: Short = False, knee: Knee = None, out: Out = Path("reports")
) -> None:
    """Measure a mesh of its own under load, with simulated providers; writes HTML and JSON.

    Exit code 1 when something that was checked does not hold.
    """
    _require_scenarios()
    command = [sys.executable, "-m", "loadtest.load", scenario, "--out", str(out.absolute())]
    command += ["--short"] if short else []
    command += ["--knee", str(knee)] if knee is not None else []
    # The tree is the working directory: what is installed of `loadtest` is the simulator alone.
    done = subprocess.run(command, cwd=TREE, check=False)  # noqa: S603 - our own interpreter
    raise typer.Exit(done.returncode)


def _require_scenarios() -> None:
    if not (TREE / "loadtest" / "load").is_dir():
        raise CommandFailed(
            "The load scenarios are not in the installed package: check out the sources of"
            " citemesh, run `make load SCENARIO=...` there, or `pip install -e '.[all,load]'` and"
            " this command again.",
            "LOADTEST_MISSING",
        )
    missing = [name for name in ("aiohttp", "locust", "numpy", "psutil") if not find_spec(name)]
    if missing:
        raise CommandFailed(
            f"The load scenarios need {', '.join(missing)}: pip install -e '.[all,load]'.",
            "LOADTEST_MISSING",
        )
