"""`python -m loadtest.load.open_driver PLAN OUT`: load that does not wait for its answers.

One process, one event loop: HTTP and SSE users by aiohttp, internal callers by the
generated stubs (gRPC needs an event loop or a thread of its own; beside Locust's
gevent its streams come late). Prints a line when a step begins and when all is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import grpc
import uvloop

import citemesh
from citemesh.generation.v1 import AnswerRequest, CacheStatus
from loadtest.load import samples
from loadtest.load.arrivals import arrivals
from loadtest.load.mix import Action, Actions
from loadtest.load.plan import Plan, Track
from loadtest.load.samples import Sample

DONE = "event: done"
DELTA = b"event: delta"


class Users:
    """One track's users: their keys, connections and memory."""

    def __init__(self, plan: Plan, track: Track, out: TextIO) -> None:
        self.track = track
        self.actions = Actions(track.mix(), track.seed)
        self._plan = plan
        self._out = out
        self._key = os.environ[track.key_variable]
        self._http: aiohttp.ClientSession
        self._stubs: citemesh.Mesh
        self.under_way: set[asyncio.Task[Any]] = set()

    async def open(self, stack: AsyncExitStack) -> None:
        """Opens connections; they are closed with the stack."""
        self._http = await stack.enter_async_context(
            aiohttp.ClientSession(
                self._plan.url,
                headers={"Authorization": f"Bearer {self._key}"},
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._plan.timeout_seconds),
                trust_env=False,
            )
        )
        self._stubs = await stack.enter_async_context(citemesh.connect(self._plan.url, self._key))

    def start(self, step: str, due: float) -> None:
        """Begins the next action of this track."""
        self._follow(asyncio.create_task(self._do(self.actions.next(), step, due)))

    def settle(self, step: str, due: float, until: float) -> None:
        """Begins a user who asks again and again until a time of the event loop's clock."""

        async def live() -> None:
            moment = due
            while asyncio.get_running_loop().time() < until:
                again = await self._do(self.actions.next(), step, moment)
                # Who is turned away comes back when it was told to, not in the same moment.
                await asyncio.sleep(again)
                moment = time.time()

        self._follow(asyncio.create_task(live()))

    def _follow(self, task: asyncio.Task[Any]) -> None:
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _do(self, action: Action, step: str, due: float) -> float:
        """Does it and notes how it went; returns the seconds after which to come back."""
        again = 0.0
        # A timer may fire a tick of the clock before its time.
        sent = max(due, time.time())
        sample = samples.begun(action, step, self.track.name, due, sent)
        if len(self.under_way) > self._plan.most_at_once:
            self._note(replace(sample, reason="DRIVER_FULL", end=time.time()))
            return again
        try:
            sample = await self._send(action, sample)
            self.actions.answered(action)
        except _Refused as refused:
            sample = replace(sample, reason=refused.reason)
            again = refused.again
        except TimeoutError:
            sample = replace(sample, reason="CLIENT_TIMED_OUT")
        except grpc.aio.AioRpcError as error:
            sample = replace(sample, reason=f"GRPC_{error.code().name}")
        except aiohttp.ClientError as error:
            sample = replace(sample, reason=type(error).__name__)
        self._note(replace(sample, end=sample.end or time.time()))
        return again

    def _note(self, sample: Sample) -> None:
        samples.write(self._out, sample)

    async def _send(self, action: Action, sample: Sample) -> Sample:
        match action.kind:
            case "ask" | "follow_up":
                return await self._ask(action, sample)
            case "grpc":
                return await self._call(action, sample)
            case "ask_whole":
                done = await self._json("POST", "/v1/answers", json=question(action))
                return samples.answered(replace(sample, end=time.time()), action, done)
            case "search":
                body = {"query": action.question, "top_k": 10}
                found = await self._json("POST", "/v1/search", json=body)
                return samples.searched(replace(sample, end=time.time()), action, found)
            case "upload":
                form = aiohttp.FormData()
                form.add_field("title", "")
                form.add_field("labels", '{"load": "arrived"}')
                form.add_field("allow", "")
                form.add_field("file", action.content, filename="note.md")
                document = await self._json("POST", "/v1/documents", data=form)
                self.actions.uploaded(document["id"])
                return sample
            case _:
                await self._json("DELETE", f"/v1/documents/{action.target}")
                return sample

    async def _json(self, method: str, path: str, **how: Any) -> Any:
        async with self._http.request(method, path, **how) as reply:
            if reply.status >= 400:
                raise _Refused(reply.status, await reply.text(), reply.headers)
            return await reply.json() if reply.status != 204 else None

    async def _ask(self, action: Action, sample: Sample) -> Sample:
        body = {**question(action), "stream": True}
        tail = b""
        first = 0.0
        async with self._http.post("/v1/answers", json=body) as reply:
            if reply.status >= 400:
                raise _Refused(reply.status, await reply.text(), reply.headers)
            async for piece in reply.content.iter_any():
                if not first and DELTA in tail[-len(DELTA) :] + piece:
                    first = time.time()
                tail += piece
        sample = replace(sample, first=first, end=time.time())
        return samples.answered(sample, action, closing(tail.decode()))

    async def _call(self, action: Action, sample: Sample) -> Sample:
        request = AnswerRequest(
            question=action.question, conversation_id=action.conversation, max_tokens=1024
        )
        first = 0.0
        done = None
        call = self._stubs.generation.Answer(request, timeout=self._plan.timeout_seconds)
        async for message in call:
            match message.event.WhichOneof("event"):
                case "delta":
                    first = first or time.time()
                case "done":
                    done = message.event.done
                case "error":
                    raise _Refused(200, json.dumps({"reason": message.event.error.reason}))
        if done is None:
            raise _Refused(200, json.dumps({"reason": "ANSWER_INCOMPLETE"}))
        sample = replace(sample, first=first, end=time.time())
        return samples.answered(sample, action, as_json(done))


class _Refused(Exception):
    """The mesh said no, and why."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        try:
            self.reason = str(json.loads(body)["reason"])
        except (ValueError, KeyError, TypeError):
            self.reason = f"HTTP_{status}"
        self.again = float((headers or {}).get("Retry-After", 0))
        super().__init__(self.reason)


def question(action: Action) -> dict[str, Any]:
    """The body of a question."""
    return {"question": action.question, "conversation_id": action.conversation}


def closing(text: str) -> Mapping[str, Any]:
    """The data of a stream's `done` event.

    Raises:
        _Refused: the stream ended in another way.
    """
    for block in reversed(text.split("\n\n")):
        name, _, data = block.partition("\n")
        if name == DONE:
            found: dict[str, Any] = json.loads(data.removeprefix("data: "))
            return found
        if name == "event: error":
            raise _Refused(200, data.removeprefix("data: "))
    raise _Refused(200, json.dumps({"reason": "ANSWER_INCOMPLETE"}))


def as_json(done: Any) -> Mapping[str, Any]:
    """What a sample needs of a gRPC answer, named as REST names it."""
    return {
        "citations": [{"title": found.title} for found in done.citations],
        "degraded": list(done.degraded),
        "cache": CacheStatus.Name(done.cache).removeprefix("CACHE_STATUS_").lower(),
        "provider": done.provider,
        "usage": {
            "input_tokens": sum(used.input_tokens for used in done.usage),
            "output_tokens": sum(used.output_tokens for used in done.usage),
        },
        "cost_usd": done.cost_micro_usd / 1e6,
    }


async def drive(plan: Plan, out: TextIO) -> None:
    """Goes through every step of every track."""
    async with AsyncExitStack() as stack:
        everybody = [Users(plan, track, out) for track in plan.tracks]
        for users in everybody:
            await users.open(stack)
        play = _closed_step if plan.closed else _step
        for number, step in enumerate(plan.tracks[0].steps):
            print(json.dumps({"step": step.name, "at": time.time()}), flush=True)
            await asyncio.gather(*(play(users, number) for users in everybody))
            if plan.drain:
                await _drained(everybody)
            print(json.dumps({"ended": step.name, "at": time.time()}), flush=True)
        await _drained(everybody)


ARRIVING_SHARE = 0.25
"""Of a closed step, in which its users come one after the other rather than all at once."""


async def _closed_step(users: Users, number: int) -> None:
    step = users.track.steps[number]
    loop = asyncio.get_running_loop()
    ends = loop.time() + step.seconds
    count = round(step.ends)
    for _ in range(count):
        users.settle(step.name, time.time(), ends)
        await asyncio.sleep(ARRIVING_SHARE * step.seconds / count)
    await asyncio.sleep(max(0.0, ends - loop.time()))


async def _step(users: Users, number: int) -> None:
    step = users.track.steps[number]
    chance = random.Random(f"{users.track.seed}-{number}")
    began, loop_began = time.time(), asyncio.get_running_loop().time()
    for at in (*arrivals(step.seconds, step.begins, step.ends, chance), step.seconds):
        await asyncio.sleep(max(0.0, loop_began + at - asyncio.get_running_loop().time()))
        if at < step.seconds:
            users.start(step.name, began + at)


async def _drained(everybody: list[Users]) -> None:
    while tasks := [task for users in everybody for task in users.under_way]:
        await asyncio.wait(tasks)


def main() -> None:
    """Reads the plan and drives."""
    plan, out = Plan.read(Path(sys.argv[1])), Path(sys.argv[2])
    with out.open("w") as file:
        uvloop.run(drive(plan, file))


if __name__ == "__main__":
    main()
