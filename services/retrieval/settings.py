"""What an operator can tell retrieval."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from meshkit.settings import ServiceSettings
from services.retrieval.fusion import Fusion


class RetrievalSettings(ServiceSettings, service="retrieval"):
    """Settings of the retrieval service."""

    lexical_dir: Path = Path(".citemesh/lexical")
    """Directory of the embedded lexical index; one process writes to it."""
    candidates: int = Field(50, ge=10, le=500)
    """Candidates asked of each index; at least as many as hits are wanted."""
    fusion: Fusion = Fusion.RRF
    """How the two rankings become one when the caller does not say."""
    dense_weight: float = Field(1.0, ge=0)
    """Weight of the dense list in the fusion; 0 leaves it out."""
    lexical_weight: float = Field(1.0, ge=0)
    """Weight of the lexical list in the fusion; 0 leaves it out."""
    embed_seconds: float = Field(2.0, gt=0)
    """Longest wait for the query's vector; then the search goes on by words alone."""
    rerank_candidates: int = Field(6, ge=0, le=100)
    """Fused hits that the cross-encoder reads; 0 turns it off."""
    rerank_seconds: float = Field(0.25, gt=0)
    """Longest wait for the cross-encoder."""
    rerank_share: float = Field(0.3, gt=0, le=1)
    """Share of the caller's remaining time that the cross-encoder may use."""
    rerank_weight: float = Field(0.15, ge=0, lt=1)
    """How much the cross-encoder's opinion counts against the fused order."""
    outbox_poll_seconds: float = Field(2.0, gt=0)
    """How often the outbox is looked at when nobody wakes it."""
    garbage_poll_seconds: float = Field(30.0, gt=0)
    """How often retired versions are looked for when nobody wakes the collector."""
    garbage_batch: int = Field(500, ge=1)
    """Chunks deleted in one transaction."""
    reconcile_hours: float = Field(6.0, gt=0)
    """How often the lexical index is compared with Postgres, beside once at every start."""
    request_memory_days: float = Field(7.0, gt=0)
    """How long a request id is remembered."""
