r"""Locust's users: a closed model, in which everybody waits for an answer before asking again.

`make load` runs it for the ladder from which the knee is fitted. By hand, against any mesh:

    CITEMESH_API_KEY=... CITEMESH_LOAD_SCENARIO=peak CITEMESH_LOAD_USERS=20 \
        locust -f loadtest/load/locustfile.py --headless --host http://127.0.0.1:8080

runs a scenario of `scenarios.py` with so many users at the knee. HTTP only: under gevent
gRPC streams come late, so internal callers are driven by `open_driver`.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from locust import FastHttpUser, LoadTestShape, constant, events, task
from locust.env import Environment

from loadtest.load import samples
from loadtest.load.mix import Action, Actions, load_mix
from loadtest.load.plan import Plan, Stretch
from loadtest.load.samples import Sample
from loadtest.load.scenarios import scenario

KEY = os.environ["CITEMESH_API_KEY"]
_numbers = itertools.count(1)


def _plan() -> Plan | None:
    path = os.environ.get("CITEMESH_LOAD_PLAN")
    return Plan.read(Path(path)) if path else None


def _steps() -> tuple[Stretch, ...]:
    if PLAN is not None:
        return PLAN.tracks[0].steps
    name = os.environ.get("CITEMESH_LOAD_SCENARIO", "steady")
    users = float(os.environ.get("CITEMESH_LOAD_USERS", "10"))
    short = bool(os.environ.get("CITEMESH_LOAD_SHORT"))
    return tuple(
        Stretch(step.name, step.seconds, step.begins * users, step.ends * users)
        for step in scenario(name, short=short).steps
    )


PLAN = _plan()
STEPS = _steps()
MIX = PLAN.tracks[0].mix() if PLAN is not None else load_mix().without("grpc")
_began = [0.0]


class Shape(LoadTestShape):
    """The users of each step; the next one begins where its time does."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now; None ends the run."""
        at: float = self.get_run_time()  # type: ignore[no-untyped-call]
        for step in STEPS:
            if at < step.seconds:
                users = step.begins + (step.ends - step.begins) * at / step.seconds
                return max(1, round(users)), 100.0
            at -= step.seconds
        return None


def _step_now(seconds: float) -> str:
    for step in STEPS:
        if seconds < step.seconds:
            return step.name
        seconds -= step.seconds
    return STEPS[-1].name


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _started(environment: Environment, **_: object) -> None:
    """Marks the beginning, and opens the file of samples when a plan asks for one."""
    _began[0] = time.time()
    path = os.environ.get("CITEMESH_LOAD_OUT")
    environment.samples = Path(path).open("w") if path else None  # type: ignore[attr-defined]  # noqa: SIM115 - closed by _stopped


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _stopped(environment: Environment, **_: object) -> None:
    """Closes the file."""
    file: TextIO | None = environment.samples  # type: ignore[attr-defined]
    if file is not None:
        file.close()


class Person(FastHttpUser):
    """Somebody at a browser, or a program of one connection."""

    wait_time = constant(PLAN.think_seconds if PLAN is not None else 1.0)
    network_timeout = 30.0
    connection_timeout = 10.0

    def on_start(self) -> None:
        """Has words of its own, so that nobody shares a conversation."""
        seed = PLAN.tracks[0].seed if PLAN is not None else 0
        self.actions = Actions(MIX, seed * 100_000 + next(_numbers))
        self.headers = {"Authorization": f"Bearer {KEY}"}

    @task
    def act(self) -> None:
        """Does the next thing and notes it."""
        action = self.actions.next()
        now = time.time()
        sample = samples.begun(action, _step_now(now - _began[0]), "main", now, now)
        try:
            sample = self._send(action, sample)
            self.actions.answered(action)
        except Failed as failed:
            sample = replace(sample, reason=str(failed))
        except OSError as error:
            sample = replace(sample, reason=type(error).__name__)
        sample = replace(sample, end=sample.end or time.time())
        self._tell(sample)

    def _tell(self, sample: Sample) -> None:
        """To Locust's own statistics, total and first text apart, and to our file."""
        error = Failed(sample.reason) if sample.reason else None
        for name, seconds in (("total", sample.total), ("first text", sample.to_first)):
            if name == "total" or (sample.first and error is None):
                self.environment.events.request.fire(
                    request_type=sample.kind,
                    name=name,
                    response_time=seconds * 1000,
                    response_length=0,
                    exception=error,
                    context={},
                )
        file: TextIO | None = self.environment.samples
        if file is not None:
            samples.write(file, sample)

    def _send(self, action: Action, sample: Sample) -> Sample:
        asked = {"question": action.question, "conversation_id": action.conversation}
        match action.kind:
            case "ask" | "follow_up":
                return self._ask(action, sample, {**asked, "stream": True})
            case "ask_whole":
                done = self._json("POST", "/v1/answers", asked)
                return samples.answered(replace(sample, end=time.time()), action, done)
            case "search":
                body = {"query": action.question, "top_k": 10}
                found = self._json("POST", "/v1/search", body)
                return samples.searched(replace(sample, end=time.time()), action, found)
            case "upload":
                document = self._upload(action.content)
                self.actions.uploaded(document["id"])
                return sample
            case _:
                self._json("DELETE", f"/v1/documents/{action.target}", None)
                return sample

    def _request(self, method: str, path: str, **how: Any) -> Any:
        headers = {**self.headers, **how.pop("headers", {})}
        # `catch_response`: it is counted by `_tell`, once and with its real end.
        reply = self.client.request(method, path, headers=headers, catch_response=True, **how)
        if reply.status_code >= 400 or not reply.status_code:
            raise Failed.of(reply.status_code, reply.content or b"")
        return reply

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        content = self._request(method, path, json=body).content
        return json.loads(content) if content else None

    def _upload(self, content: bytes) -> Any:
        line = "citemesh-load-boundary"
        parts = b"".join(
            f'--{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in (("title", ""), ("labels", '{"load": "arrived"}'), ("allow", ""))
        )
        file = (
            f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="note.md"\r\n\r\n'
        )
        payload = parts + file.encode() + content + f"\r\n--{line}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={line}"}
        return json.loads(
            self._request("POST", "/v1/documents", data=payload, headers=kind).content
        )

    def _ask(self, action: Action, sample: Sample, body: Mapping[str, Any]) -> Sample:
        reply = self._request("POST", "/v1/answers", json=body, stream=True)
        first, name = 0.0, b""
        done: Mapping[str, Any] | None = None
        # Line by line: reading blocks of a fixed size would hold the first text back.
        while line := reply.stream.readline(b"\n"):
            if line.startswith(b"event: "):
                name = line[7:].strip()
                if name == b"delta" and not first:
                    first = time.time()
            elif line.startswith(b"data: ") and name in (b"done", b"error"):
                if name == b"error":
                    raise Failed.of(200, line[6:])
                done = json.loads(line[6:])
        if done is None:
            raise Failed("ANSWER_INCOMPLETE")
        sample = replace(sample, first=first, end=time.time())
        return samples.answered(sample, action, done)


class Failed(Exception):
    """The mesh said no; the text is its reason."""

    @classmethod
    def of(cls, status: int, body: bytes) -> Failed:
        """By the problem that was answered."""
        try:
            return cls(str(json.loads(body)["reason"]))
        except (ValueError, KeyError, TypeError):
            return cls(f"HTTP_{status}" if status else "CONNECTION_FAILED")
