"""How an answer fails or goes on when a neighbour is away."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from citemesh.generation import v1 as generation_v1
from citemesh.retrieval import v1 as retrieval_v1
from meshkit import context
from meshkit.channel import streaming
from meshkit.errors import Busy, MeshError, PermissionDenied, Unavailable
from meshkit.identity import Signer
from services.generation.calls.guardrail import GuardrailCalls
from services.generation.settings import GenerationSettings
from tests.contract.generation_room import (
    HELP,
    QUESTION,
    SHOWN,
    Caller,
    kinds,
)


async def test_without_a_guardrail_there_is_no_answer(caller: Caller) -> None:
    await caller.mesh.guardrail.drain()
    with pytest.raises(MeshError) as raised:
        await caller.ask(QUESTION)
    assert raised.value.reason == "GUARDRAIL_UNAVAILABLE"
    assert caller.mesh.world.searches == []


async def test_without_a_vector_the_search_goes_by_words(caller: Caller) -> None:
    caller.mesh.world.failing.add("embedding")
    done = (await caller.ask(QUESTION))[-1].done
    assert list(done.degraded) == ["dense"]
    assert done.citations
    assert caller.mesh.world.searches[-1].mode == retrieval_v1.SEARCH_MODE_LEXICAL
    caller.mesh.world.failing.clear()
    assert (await caller.ask(QUESTION))[-1].done.cache == generation_v1.CACHE_STATUS_NONE


async def test_without_rerank_the_answer_is_marked_as_degraded(caller: Caller) -> None:
    caller.mesh.world.failing.add("rerank")
    done = (await caller.ask(QUESTION))[-1].done
    assert list(done.degraded) == ["rerank"]
    assert "thirty days" in done.answer
    assert done.confidence == generation_v1.CONFIDENCE_GROUNDED


async def test_without_retrieval_the_call_fails_with_its_reason(caller: Caller) -> None:
    caller.mesh.world.failing.add("retrieval")
    with pytest.raises(Unavailable) as raised:
        await caller.ask(QUESTION)
    assert raised.value.reason == "SEARCH_UNAVAILABLE"


async def test_a_retrieval_with_too_much_to_do_is_no_retrieval_that_is_lost(caller: Caller) -> None:
    caller.mesh.world.busy.add("retrieval")
    with pytest.raises(Busy) as raised:
        await caller.ask(QUESTION)
    assert (raised.value.reason, raised.value.retry_after) == ("SERVICE_BUSY", 2.0)


async def test_a_client_that_goes_away_ends_the_work_behind_it(caller: Caller) -> None:
    caller.mesh.world.slow.add("rerank")
    request = generation_v1.AnswerRequest(question=QUESTION)
    with context.acting_as(caller.signed()):
        call = caller.mesh.stub.Answer(request, timeout=30)
        first = await call.read()
        assert first.event.WhichOneof("event") == "sources"
        await asyncio.wait_for(caller.mesh.world.waiting.wait(), 5)
        call.cancel()
    await asyncio.wait_for(caller.mesh.world.cancelled.wait(), 5)


async def test_a_guardrail_that_dies_while_an_answer_is_written_ends_it(caller: Caller) -> None:
    caller.mesh.world.slow.add("rerank")
    request = generation_v1.AnswerRequest(question=QUESTION)
    with context.acting_as(caller.signed()):
        async with streaming(caller.mesh.stub.Answer(request, timeout=30)) as call:
            await call.read()
            await asyncio.wait_for(caller.mesh.world.waiting.wait(), 5)
            await caller.mesh.guardrail.drain()
            events = [response.event async for response in call]
    assert kinds(events) == ["error"]
    assert events[0].error.reason == "GUARDRAIL_UNAVAILABLE"


async def test_quotes_are_filtered_though_the_answer_is_not_checked(caller: Caller) -> None:
    caller.mesh.world.failing.add("grounding")
    done = (await caller.ask(HELP))[-1].done
    assert list(done.degraded) == ["grounding"]
    assert [cited.quote for cited in done.citations] == SHOWN
    assert not any(cited.supported for cited in done.citations)
    assert done.confidence == generation_v1.CONFIDENCE_MIXED


@pytest.mark.parametrize("release", ["last", "this"])
async def test_a_quote_that_nobody_filtered_does_not_leave(caller: Caller, release: str) -> None:
    world = caller.mesh.world
    world.failing.add("filtering again")
    if release == "last":
        world.without_quotes = True
    else:
        world.failing.add("grounding")
    events = await caller.ask(HELP)
    assert kinds(events)[-1] == "error"
    assert events[-1].error.reason == "GUARDRAIL_UNAVAILABLE"
    assert "citation" not in kinds(events)
    assert "ann.smith" not in "".join(str(event) for event in events)


async def test_what_a_generator_runs_into_is_not_blamed_on_the_guardrail(caller: Caller) -> None:
    async def deltas() -> AsyncGenerator[str, None]:
        yield "The leave is "
        raise Unavailable("PROVIDER_OVERLOADED", "Busy.")

    calls = GuardrailCalls(caller.mesh.to_guardrail)
    with context.acting_as(caller.signed()), pytest.raises(Unavailable) as raised:
        _ = [text async for text in calls.filtered(deltas, release="stream", seconds=5)]
    assert raised.value.reason == "PROVIDER_OVERLOADED"


async def test_generate_needs_the_internal_scope_and_says_what_is_missing(
    caller: Caller, keys: Path
) -> None:
    message = generation_v1.Message(role=generation_v1.ROLE_USER, text="Hello")
    request = generation_v1.GenerateRequest(messages=[message])
    with context.acting_as(caller.signed()), pytest.raises(PermissionDenied):
        await caller.mesh.stub.Generate(request).read()
    service = Signer.load(keys / "generation.key").sign_background(caller.project, (), "req_2")
    with context.acting_as(service), pytest.raises(Unavailable) as raised:
        await caller.mesh.stub.Generate(request).read()
    assert raised.value.reason == "PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize("providers", ["", "local,gemini", "gemini,gemini"])
def test_an_order_of_providers_that_makes_no_sense_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, providers: str
) -> None:
    from meshkit.settings import SettingsInvalid, load

    monkeypatch.setenv("CITEMESH_GENERATION_PROVIDERS", providers)
    with pytest.raises(SettingsInvalid, match="CITEMESH_GENERATION_PROVIDERS"):
        load(GenerationSettings)
