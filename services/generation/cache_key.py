"""The key of the exact answer cache: a digest of everything an answer depends on. Pure."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from meshkit.project import DEFAULTS, ProjectSettings
from services.generation.answers import Question

_SPACE = re.compile(r"\s+")


def normalised(question: str) -> str:
    """The question without differences that change nothing: case, spaces, the closing mark."""
    folded = unicodedata.normalize("NFKC", question).casefold()
    return _SPACE.sub(" ", folded).strip().rstrip("?!. ")


def cache_key(
    question: Question,
    searched: str,
    *,
    project_id: str,
    principals: Sequence[str],
    corpus_epoch: int,
    model: str,
    settings: ProjectSettings = DEFAULTS,
) -> bytes:
    """32 bytes; equal only when the same caller may be given the same answer.

    Args:
        question: What is asked, with its filter and length.
        searched: The question completed with its conversation.
        project_id: Project.
        principals: What the caller is; others may see other documents.
        corpus_epoch: State of the corpus; any activation or removal changes it.
        model: Provider and model, `local/extractive-2`.
        settings: The project's: searches depend on them.
    """
    parts = _circumstances(question, project_id, principals, corpus_epoch, model, settings)
    return _digest(
        {
            **parts,
            "question": normalised(question.text),
            "searched": normalised(searched),
        }
    )


def scope_key(
    question: Question,
    *,
    project_id: str,
    principals: Sequence[str],
    corpus_epoch: int,
    model: str,
    space: str,
    settings: ProjectSettings = DEFAULTS,
) -> bytes:
    """32 bytes; equal for all questions of which one may be given another's answer.

    Args:
        question: Only its filter and length count.
        project_id: See `cache_key`.
        principals: See `cache_key`.
        corpus_epoch: See `cache_key`.
        model: See `cache_key`.
        space: Embedding space of the questions' vectors.
        settings: See `cache_key`.
    """
    parts = _circumstances(question, project_id, principals, corpus_epoch, model, settings)
    return _digest({**parts, "space": space})


def _circumstances(
    question: Question,
    project_id: str,
    principals: Sequence[str],
    corpus_epoch: int,
    model: str,
    settings: ProjectSettings,
) -> dict[str, Any]:
    """What an answer depends on besides the wording."""
    wanted = question.filter
    after, before = wanted.activated_after, wanted.activated_before
    return {
        "project": project_id,
        "principals": sorted(principals),
        "labels": wanted.labels,
        "documents": wanted.document_ids,
        "after": after.isoformat() if after else "",
        "before": before.isoformat() if before else "",
        "epoch": corpus_epoch,
        "model": model,
        "max_tokens": question.max_tokens,
        "search": [settings.fusion, settings.dense_weight, settings.lexical_weight],
    }


def _digest(parts: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
