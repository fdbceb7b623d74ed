"""The rendered manifests, as somebody with kubectl alone applies them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parent.parent.parent / "k8s" / "manifests"


@pytest.fixture(scope="session")
def _rendered() -> list[dict[str, Any]]:
    listing = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    return [
        resource
        for name in listing["resources"]
        for resource in yaml.safe_load_all((MANIFESTS / name).read_text())
    ]


@pytest.fixture
def manifests(_rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy that a test may spoil."""
    return deepcopy(_rendered)
