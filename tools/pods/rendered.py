"""What is run: the chart's profile for a closed network, with the site that `make pods` is."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tools.k8s import secrets as made
from tools.pods.resources import Resource, Resources
from tools.pods.stores import Postgres
from tools.tree import ROOT

PROFILE = "airgap"
VALUES = Path(__file__).parent / "values.yaml"
RENDER_SECONDS = 120.0


class NotRendered(Exception):
    """The chart refuses the values; the text is what it said."""


def render(helm: Path, s3: str) -> list[Resource]:
    """Every resource of the chart.

    Args:
        helm: The Python that has Helm as a library (k8s/requirements.txt).
        s3: Address of the store of files.

    Raises:
        NotRendered: the chart refuses the values.
    """
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    values["stores"]["blobs"]["endpointUrl"] = s3
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as site:
        yaml.safe_dump(values, site)
        site.flush()
        done = subprocess.run(
            (str(helm), "-m", "tools.k8s.render", PROFILE, "--site", site.name),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=RENDER_SECONDS,
            check=False,
        )
    if done.returncode:
        raise NotRendered(done.stderr.strip() or done.stdout.strip())
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def secrets(postgres: Postgres) -> list[Resource]:
    """The Secrets that the render refers to, which a site makes itself."""
    # What moto takes for an account: anything.
    s3 = {"access-key-id": "pods", "secret-access-key": "pods"}
    return [
        *made.keys({}),
        made.secret("citemesh-postgres", postgres.secret(), {}),
        made.secret("citemesh-blobs", s3, {}),
    ]


def applied(helm: Path, s3: str, postgres: Postgres) -> Resources:
    """What an API server would hold: the render and the site's Secrets."""
    return Resources.of([*render(helm, s3), *secrets(postgres)])
