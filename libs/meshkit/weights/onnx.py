"""Runs a model's weights with onnxruntime, one thread a run and nothing spinning.

Inputs go one text at a time: the int8 graphs scale their activations by the
whole batch, so a text's numbers would depend on its neighbours. Batches would
not be faster on a CPU either; two one-thread runs side by side are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

# Before the import: onnxruntime reads it once. Nothing here may phone home.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from meshkit.weights.store import Weights

Floats: TypeAlias = NDArray[np.float32]


def open_session(path: os.PathLike[str]) -> onnxruntime.InferenceSession:
    """A session that runs on the calling thread and gives memory back after each run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Idle threads that spin burn a core each; the arena never shrinks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )


def open_tokenizer(path: os.PathLike[str]) -> Tokenizer:
    """A tokenizer that neither pads nor truncates; whoever calls it does."""
    tokenizer: Tokenizer = Tokenizer.from_file(os.fspath(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class OnnxModel:
    """One BERT-like graph and its tokenizer. Safe to use from several threads at once."""

    def __init__(self, weights: Weights) -> None:
        self.spec = weights.spec
        self._tokenizer = open_tokenizer(weights.tokenizer)
        self._session = open_session(weights.model)
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._cls = self._special("[CLS]")
        self._sep = self._special("[SEP]")

    def _special(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer of {self.spec.name} has no {token}")
        return found

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, all of them, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def run(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[Floats, int]:
        """Runs the graph on one text, or on a pair.

        Args:
            first: Token ids without special tokens; cut from the end to what the model reads.
            second: Token ids of the pair's other half; the caller keeps the sum in bounds.

        Returns:
            The graph's first output without its batch axis (`[tokens, width]` for an
            embedder, `[1]` for a cross-encoder), and how many tokens were read.

        Raises:
            ValueError: a pair longer than the model reads.
        """
        if second is None:
            ids = [self._cls, *first[: self.spec.max_tokens - 2], self._sep]
            boundary = len(ids)
        else:
            ids = [self._cls, *first, self._sep, *second, self._sep]
            boundary = len(first) + 2
            if len(ids) > self.spec.max_tokens:
                raise ValueError(
                    f"{len(ids)} tokens; {self.spec.name} reads {self.spec.max_tokens}"
                )
        row = np.array([ids], dtype=np.int64)
        feed: dict[str, Any] = {"input_ids": row, "attention_mask": np.ones_like(row)}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(row)
            feed["token_type_ids"][0, boundary:] = 1
        output: Floats = self._session.run(None, feed)[0][0]
        return output, len(ids)
