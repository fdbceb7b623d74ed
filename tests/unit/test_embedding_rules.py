"""Embedding spaces never mix, and no unusable vector passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import Internal, NotFound, Precondition, Unsupported
from meshkit.providers import settings as provider_settings
from meshkit.settings import SettingsInvalid, load
from meshkit.weights import find
from meshkit.weights.threads import ModelThreads
from services.embedding.embedder import Task
from services.embedding.local import fingerprint, identity, normalised, pooled
from services.embedding.opening import open_embedders
from services.embedding.query_cache import CacheKey, QueryCache
from services.embedding.settings import EmbeddingSettings
from services.embedding.spaces import (
    Identity,
    Space,
    SpaceState,
    check_registered,
    first_states,
    parse_name,
)
from services.embedding.vectors import checked, from_bytes, to_bytes

HERE = Identity("local/a@384", "local", "a", 384, True, "v1")
OTHER = Identity("local/b@384", "local", "b", 384, True, "v1")


def registered(identity: Identity, state: SpaceState = SpaceState.ACTIVE) -> Space:
    return Space(identity, state, datetime.now(UTC))


@pytest.mark.parametrize(
    ("field", "there", "here"),
    [
        ("model", "c", "a"),
        ("dimensions", 768, 384),
        ("normalized", False, True),
        ("version", "v0", "v1"),
        ("provider", "gemini", "local"),
    ],
)
def test_a_space_filled_by_something_else_is_refused_naming_both_sides(
    field: str, there: object, here: object
) -> None:
    other = replace(HERE, **{field: there})
    with pytest.raises(Precondition) as caught:
        check_registered([registered(other)], {HERE.name: HERE})
    assert caught.value.reason == "SPACE_MISMATCH"
    assert f"{field} {there} there, {here} here" in caught.value.detail


def test_a_start_without_the_active_space_is_refused_naming_both_sides() -> None:
    with pytest.raises(Precondition) as caught:
        check_registered([registered(HERE)], {OTHER.name: OTHER})
    assert caught.value.reason == "SPACE_NOT_CONFIGURED"
    assert HERE.name in caught.value.detail
    assert OTHER.name in caught.value.detail


def test_spaces_that_are_not_active_may_be_missing() -> None:
    check_registered([registered(HERE, SpaceState.STANDBY)], {OTHER.name: OTHER})


def test_only_the_first_space_of_an_installation_is_born_active() -> None:
    names = ["local/a@384", "local/b@384"]
    assert first_states(names, any_active=False) == {
        "local/a@384": SpaceState.ACTIVE,
        "local/b@384": SpaceState.BUILDING,
    }
    assert set(first_states(names, any_active=True).values()) == {SpaceState.BUILDING}


@pytest.mark.parametrize(
    "text", ["", "local", "local/a", "local/a@0", "local/a@4001", "Local/a@3", "a/b c@3", "a/b/c@3"]
)
def test_a_malformed_space_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="provider/model@dimensions"):
        parse_name(text)


@pytest.mark.parametrize("text", ["", ",", "local/a", "local/a@384,local/a@384"])
def test_a_wrong_list_of_spaces_stops_the_start_naming_the_variable(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITEMESH_EMBEDDING_SPACES", text)
    with pytest.raises(SettingsInvalid, match="CITEMESH_EMBEDDING_SPACES"):
        load(EmbeddingSettings)


def test_spaces_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITEMESH_EMBEDDING_SPACES", "gemini/x@768, local/a@384")
    assert load(EmbeddingSettings).spaces == ("gemini/x@768", "local/a@384")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("gemini/gemini-embedding-001@768", SettingsInvalid, "GEMINI_API_KEY"),
        ("gemini/gemini-embedding-0@768", NotFound, "gemini-embedding-001"),
        ("anthropic/claude@768", Unsupported, "cannot be used to embed"),
        ("local/no-such-model@384", NotFound, "bge-small-en-v1.5"),
        ("local/bge-small-en-v1.5@768", Precondition, "384"),
        ("local/ms-marco-MiniLM-L-12-v2@384", Precondition, "no vectors"),
    ],
)
async def test_a_space_that_nobody_here_can_embed_in_stops_the_start(
    name: str, error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    threads = ModelThreads(1, "test")
    with pytest.raises(error, match=says):
        await open_embedders([name], threads, provider_settings.load())
    threads.close()


def test_the_version_of_a_space_changes_with_anything_its_numbers_depend_on() -> None:
    spec = find("bge-small-en-v1.5")
    file = spec.files[0]
    variants = [
        spec,
        replace(spec, pooling="mean"),
        replace(spec, query_prefix=""),
        replace(spec, max_tokens=256),
        replace(spec, files=(replace(file, sha256="0" * 64), *spec.files[1:])),
    ]
    assert len({fingerprint(each) for each in variants}) == len(variants)


def test_two_models_of_one_length_are_two_spaces() -> None:
    first = identity(parse_name("local/bge-small-en-v1.5@384"))
    second = identity(parse_name("local/all-MiniLM-L6-v2@384"))
    assert first.dimensions == second.dimensions
    assert first.version != second.version


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 3), np.float32),
        np.array([[np.nan, 1, 0]], np.float32),
        np.array([[np.inf, 1, 0]], np.float32),
        np.array([[1, 0]], np.float32),
        np.array([[1, 0, 0], [0, 1, 0]], np.float32),
        np.array([[0.5, 0, 0]], np.float32),
    ],
    ids=["zeros", "nan", "infinity", "short", "too many", "not normalised"],
)
def test_an_unusable_vector_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(Internal) as caught:
        checked(bad, texts=1, dimensions=3, normalized=True)
    assert caught.value.reason == "VECTOR_INVALID"


def test_one_bad_vector_among_good_ones_is_refused() -> None:
    rows = np.stack([unit(1, 2, 3), np.zeros(3, np.float32), unit(3, 2, 1)])
    with pytest.raises(Internal):
        checked(rows, texts=3, dimensions=3, normalized=True)


def test_a_space_that_is_not_normalised_takes_any_length() -> None:
    rows = np.array([[5, 0, 0]], np.float32)
    assert checked(rows, texts=1, dimensions=3, normalized=False) is rows


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_a_stored_vector_comes_back_bit_for_bit(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    assert from_bytes(to_bytes(vector)).tobytes() == vector.tobytes()


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=50))
def test_normalising_gives_length_one_or_leaves_zeros(values: list[float]) -> None:
    vector = normalised(np.array(values, np.float32))
    length = float(np.linalg.norm(vector))
    assert length == pytest.approx(1.0, abs=1e-4) or length == 0.0


def test_pooling_takes_the_first_token_or_the_mean() -> None:
    rows = np.array([[1, 2], [3, 6]], np.float32)
    assert pooled(rows, "cls").tolist() == [1, 2]
    assert pooled(rows, "mean").tolist() == [2, 4]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(text: str, project: str = "prj_1", space: str = "s", task: Task = Task.QUERY) -> CacheKey:
    return CacheKey(project, space, task, text.encode().ljust(32))


def test_the_least_recently_used_vector_leaves_first() -> None:
    cache = QueryCache(2, 60, Clock())
    cache.put(key("a"), unit(1, 0))
    cache.put(key("b"), unit(0, 1))
    assert cache.get(key("a")) is not None
    cache.put(key("c"), unit(1, 1))
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) is not None
    assert len(cache) == 2


def test_an_old_vector_is_forgotten() -> None:
    clock = Clock()
    cache = QueryCache(2, 60, clock)
    cache.put(key("a"), unit(1, 0))
    clock.now = 61
    assert cache.get(key("a")) is None
    assert len(cache) == 0


def test_a_vector_is_returned_for_nothing_but_its_own_key() -> None:
    cache = QueryCache(8, 60, Clock())
    cache.put(key("a"), unit(1, 0))
    for other in (
        key("b"),
        key("a", project="prj_2"),
        key("a", space="t"),
        key("a", task=Task.DOCUMENT),
    ):
        assert cache.get(other) is None


def test_a_purge_forgets_one_project_only() -> None:
    cache = QueryCache(8, 60, Clock())
    for project in ("prj_1", "prj_2"):
        cache.put(key("a", project), unit(1, 0))
        cache.put(key("b", project), unit(1, 0))
    assert cache.forget_project("prj_1") == 2
    assert cache.get(key("a", "prj_1")) is None
    assert cache.get(key("a", "prj_2")) is not None


def test_a_cache_of_no_entries_keeps_nothing() -> None:
    cache = QueryCache(0, 60, Clock())
    cache.put(key("a"), unit(1, 0))
    assert len(cache) == 0
