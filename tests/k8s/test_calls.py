"""The call graph is read from the code, and what is declared has to be the same."""

from __future__ import annotations

import dataclasses

import pytest

from meshkit.components import BY_NAME, COMPONENTS, Component
from tools.k8s import calls


def read(source: str) -> calls.Code:
    return calls.code([("services/example.py", source)])


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda each: each.name)
def test_a_component_declares_exactly_what_its_code_does(component: Component) -> None:
    found = calls.code_of(component.module)
    assert list(calls.problems(component.name, found, component)) == []


def test_a_channel_to_a_name_is_an_edge() -> None:
    found = read('stub = RerankServiceAsyncStub(process.channel("rerank"))')
    assert found.named == {"rerank"}
    assert not found.addressed
    assert found.unexplained == ()


def test_names_of_a_loop_over_a_constant_are_edges() -> None:
    found = read(
        'PARTS = (("retrieval", "opensearch"), ("ingestion", "clamav"))\n'
        "def watch(process):\n"
        "    for name, part in PARTS:\n"
        "        process.channel(name)\n"
    )
    assert found.named == {"retrieval", "ingestion"}


def test_a_loop_over_told_addresses_reaches_whoever_they_name() -> None:
    found = read("checks = [process.channel(name) for name in addresses()]")
    assert found.addressed
    assert found.named == frozenset()


def test_a_channel_to_an_address_reaches_whoever_it_names() -> None:
    assert read("channel = MeshChannel(replica.address, service)").addressed


@pytest.mark.parametrize(
    "source",
    [
        "process.channel(name)",
        "[process.channel(name) for name in GATEWAY.calls]",
        'process.channel("em" + "bedding")',
        'dial = process.channel\ndial("embedding")',
        'grpc.aio.insecure_channel("embedding:50051")',
        "grpc.secure_channel(target, credentials)",
        "for name in addresses():\n    pass\nprocess.channel(name)",
    ],
)
def test_a_channel_that_cannot_be_understood_is_reported(source: str) -> None:
    found = read(source)
    assert len(found.unexplained) == 1
    assert found.unexplained[0].startswith("services/example.py:")
    problems = list(calls.problems("guardrail", found, BY_NAME["guardrail"]))
    assert "other end cannot be told" in problems[0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"calls": ("embedding", "rerank")}, "its code calls embedding_bulk, its `calls` do not"),
        (
            {"calls": ("embedding", "embedding_bulk", "rerank", "ingestion")},
            "`calls` names ingestion, which its code never calls",
        ),
        ({"observes": ("ingestion",)}, "`observes` is set"),
        ({"uses_database": False}, "`uses_database` is False, its code says True"),
        ({"signs": False}, "`signs` is False, its code says True"),
        ({"calls_providers": True}, "`calls_providers` is True, its code says False"),
    ],
)
def test_a_declaration_other_than_the_code_is_reported(
    changes: dict[str, object], problem: str
) -> None:
    declared = dataclasses.replace(BY_NAME["retrieval"], **changes)  # type: ignore[arg-type]
    found = calls.code_of("services.retrieval")
    assert any(problem in each for each in calls.problems("retrieval", found, declared))
