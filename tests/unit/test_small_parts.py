"""Ids, page tokens, deadlines and priorities."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import deadline, pagetoken
from meshkit.errors import InvalidInput
from meshkit.ids import new_id


def test_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000, 1_900_000_000, 999_999))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    ids = [new_id("doc") for _ in range(200)]
    assert ids == sorted(ids)
    assert {len(name) for name in ids} == {len("doc_") + 26}


def test_ids_do_not_repeat() -> None:
    assert len({new_id("x") for _ in range(10_000)}) == 10_000


@given(st.dictionaries(st.text(), st.text() | st.integers(), max_size=4))
def test_a_page_token_gives_its_position_back(position: dict[str, str | int]) -> None:
    assert pagetoken.decode(pagetoken.encode(position)) == position


@given(st.text(min_size=1))
def test_a_foreign_page_token_is_refused_and_never_crashes(token: str) -> None:
    try:
        position = pagetoken.decode(token)
    except InvalidInput:
        return
    assert isinstance(position, dict)


def test_a_call_gets_less_time_than_the_request_has() -> None:
    with deadline.within(1.0):
        given_to_call = deadline.for_call(None)
        assert given_to_call is not None
        assert given_to_call < 1.0
        assert deadline.for_call(0.1) == 0.1
        asked_for_more = deadline.for_call(60.0)
        assert asked_for_more is not None
        assert asked_for_more < 1.0


def test_a_block_cannot_take_more_time_than_is_left() -> None:
    with deadline.within(1.0), deadline.within(60.0):
        left = deadline.remaining()
        assert left is not None
        assert left <= 1.0


def test_without_a_deadline_the_asked_timeout_stands() -> None:
    assert deadline.remaining() is None
    assert deadline.for_call(3.0) == 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the process's")
def test_every_thread_of_a_process_comes_after_others_once_it_says_so() -> None:
    program = """
import os, threading
from pathlib import Path
from meshkit.process import lower_priority

def nice():
    return {os.getpriority(os.PRIO_PROCESS, int(each.name))
            for each in Path("/proc/self/task").iterdir()}

end = threading.Event()
[threading.Thread(target=end.wait).start() for _ in range(3)]
before = nice()
lower_priority(3)
threading.Thread(target=end.wait).start()
print(before, nice(), {min(19, each + 3) for each in before})
end.set()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    before, after, wanted = done.stdout.strip().replace("} {", "}|{").split("|")
    assert after == wanted
    assert before != "{19}"
