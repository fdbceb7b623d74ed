"""An answer as JSON for the cache, and back."""

import dataclasses
import json
from typing import Any

from services.generation.answers import CacheStatus, Citation, Done, Sources
from services.generation.confidence import Confidence
from services.generation.passages import Chunk, Location, Passage


def encode(sources: Sources, done: Done) -> str:
    """The answer with its sources; the passages' texts are not kept."""
    return json.dumps(
        {
            "sources": [_source(passage) for passage in sources.passages],
            "answer": done.answer,
            "citations": [dataclasses.asdict(citation) for citation in done.citations],
            "confidence": done.confidence.value,
            "model": done.model,
            "provider": done.provider,
        }
    )


def decode(payload: str) -> tuple[Sources, Done]:
    """The inverse of `encode`; what belongs to one request only is empty."""
    values = json.loads(payload)
    done = Done(
        answer_id="",
        answer=values["answer"],
        citations=tuple(
            Citation(**{**citation, "location": _location(citation["location"])})
            for citation in values["citations"]
        ),
        confidence=Confidence(values["confidence"]),
        model=values["model"],
        provider=values["provider"],
        usage=(),
        cache=CacheStatus.EXACT,
        degraded=(),
    )
    return Sources(tuple(_passage(source) for source in values["sources"])), done


def _source(passage: Passage) -> dict[str, Any]:
    chunk = dataclasses.asdict(dataclasses.replace(passage.chunk, text=""))
    return {"marker": passage.marker, "score": passage.score, "chunk": chunk}


def _passage(source: dict[str, Any]) -> Passage:
    chunk = source["chunk"]
    return Passage(
        source["marker"],
        Chunk(
            **{
                **chunk,
                "location": _location(chunk["location"]),
                "flags": tuple(chunk["flags"]),
            }
        ),
        source["score"],
    )


def _location(values: dict[str, Any]) -> Location:
    return Location(**{**values, "headings": tuple(values["headings"])})
