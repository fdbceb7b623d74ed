"""The key of the exact answer cache: a digest of everything an answer depends on. Pure."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

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
) -> bytes:
    """32 bytes; equal only when the same caller may be given the same answer.

    Args:
        question: What is asked, with its filter and length.
        searched: The question completed with its conversation.
        project_id: Project.
        principals: What the caller is; others may see other documents.
        corpus_epoch: State of the corpus; any activation or removal changes it.
        model: Provider and model, `local/extractive-1`.
    """
    wanted = question.filter
    after, before = wanted.activated_after, wanted.activated_before
    parts = {
        "project": project_id,
        "question": normalised(question.text),
        "searched": normalised(searched),
        "principals": sorted(principals),
        "labels": wanted.labels,
        "documents": wanted.document_ids,
        "after": after.isoformat() if after else "",
        "before": before.isoformat() if before else "",
        "epoch": corpus_epoch,
        "model": model,
        "max_tokens": question.max_tokens,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
