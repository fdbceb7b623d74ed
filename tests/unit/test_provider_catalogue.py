"""Prices, limits and the taxonomy of providers' errors."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from meshkit.errors import DeadlineExceeded, NotFound, Unavailable, Unprocessable, Unsupported
from meshkit.providers import catalogue, errors
from meshkit.providers.catalogue import Operation

TARGET = errors.Target("gemini", "gemini-3.8-flash", "generate")


def test_every_entry_has_a_price_and_a_provider_one_default_per_operation() -> None:
    known = catalogue.load()
    assert known.as_of >= date(2026, 11, 1)
    for model in known.models:
        assert model.cost_micro_usd(input_tokens=1_000_000, output_tokens=1, searches=1) > 0
        assert model.context_tokens > 0
    groups = {(model.provider, model.operation) for model in known.models}
    for provider, operation in groups:
        assert known.find(provider, operation).default


def test_a_price_is_a_million_tokens_dollars_in_millionths_rounded_up() -> None:
    haiku = catalogue.load().find("anthropic", Operation.GENERATE, "claude-haiku-5-5")
    assert haiku.cost_micro_usd(input_tokens=1000, output_tokens=100) == 150
    assert haiku.cost_micro_usd(input_tokens=1) == 1
    assert haiku.cost_micro_usd(cached_tokens=1000, cache_write_tokens=1000) == 135
    # A long prompt is dearer as a whole.
    assert haiku.cost_micro_usd(input_tokens=200_000) == 100_000


def test_a_rerank_that_is_sold_by_searches_costs_by_searches() -> None:
    model = catalogue.load().find("cohere", Operation.RERANK, "rerank-v3.5")
    assert model.cost_micro_usd(input_tokens=5000, searches=1) == 2000


def test_a_file_adds_models_and_replaces_single_values(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(
        """as_of = 2027-01-01
        [[model]]
        provider = "gemini"
        operation = "embed"
        model = "gemini-embedding-001"
        input = 0.10
        [[model]]
        provider = "gemini"
        operation = "generate"
        model = "gemini-next"
        context_tokens = 10
        input = 1.0
        """
    )
    known = catalogue.load(file)
    assert known.as_of == date(2027, 1, 1)
    changed = known.find("gemini", Operation.EMBED)
    assert (changed.input, changed.texts_per_call) == (0.10, 100)
    assert known.find("gemini", Operation.GENERATE, "gemini-next").context_tokens == 10


@pytest.mark.parametrize("text", ["]", "[[model]]\nprovider = 'x'", "model = 3"])
def test_a_file_that_is_no_catalogue_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match="CITEMESH_PROVIDER_CATALOGUE"):
        catalogue.load(file)
    with pytest.raises(ValueError, match="CITEMESH_PROVIDER_CATALOGUE"):
        catalogue.load(tmp_path / "missing.toml")


def test_a_misspelt_value_in_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text("[[model]]\nprovider='x'\noperation='embed'\nmodel='y'\nprize=1")
    with pytest.raises(ValueError, match="prize"):
        catalogue.load(file)


def test_what_is_not_listed_is_refused_because_its_price_is_unknown() -> None:
    known = catalogue.load()
    with pytest.raises(NotFound, match="CITEMESH_PROVIDER_CATALOGUE"):
        known.find("gemini", Operation.GENERATE, "gemini-0")
    with pytest.raises(Unsupported, match="cannot be used to rerank"):
        known.find("gemini", Operation.RERANK)


def test_estimates_are_on_the_safe_side() -> None:
    english = "The allowance for meals is thirty euros a day for travel inside the country."
    assert len(english) / 4 < catalogue.estimated_tokens([english]) < len(english) / 2
    assert catalogue.estimated_tokens(["日本語の文章"]) >= 6


def test_every_kind_of_error_has_a_name_of_its_own_and_a_sentence() -> None:
    classes = errors.ProviderError.__subclasses__()
    assert len(errors.KINDS) == len(classes) == 14
    assert len({cls.says for cls in classes}) == len(classes)
    for cls in classes:
        assert cls(TARGET).reason == f"PROVIDER_{cls.kind.upper()}"
        assert "gemini" in cls(TARGET).as_mesh_error().detail


def test_an_error_leaves_the_mesh_without_the_providers_words() -> None:
    error = errors.RateLimited(TARGET, status=429, code="quota", retry_after=7.0)
    outside = error.as_mesh_error()
    assert isinstance(outside, Unavailable)
    assert outside.retry_after == 7.0
    assert outside.metadata == {"provider": "gemini", "kind": "rate_limited"}
    assert isinstance(errors.TimedOut(TARGET).as_mesh_error(), DeadlineExceeded)
    assert isinstance(errors.ContentBlocked(TARGET).as_mesh_error(), Unprocessable)
