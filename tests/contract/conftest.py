"""Back ends that several suites share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.clamd import Clamd, Missing, clamd
from tests.contract.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def scanner(scratch: Path) -> Iterator[Clamd]:
    """A real clamd of this session. In CI it has to run; elsewhere it is said what to install."""
    try:
        with clamd(scratch / "clamd") as running:
            yield running
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
