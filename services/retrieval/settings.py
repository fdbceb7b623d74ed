"""What an operator can tell retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr

from meshkit.settings import ServiceSettings
from services.retrieval.fusion import Fusion


def _opensearch(name: str, default: Any, **rules: Any) -> Any:
    """A setting about OpenSearch; the short name is the one that users know."""
    names = (f"CITEMESH_RETRIEVAL_OPENSEARCH_{name}", f"CITEMESH_OPENSEARCH_{name}")
    return Field(default, validation_alias=AliasChoices(*names), **rules)


class RetrievalSettings(ServiceSettings, service="retrieval"):
    """Settings of the retrieval service."""

    lexical_dir: Path = Path(".citemesh/lexical")
    """Directory of the embedded lexical index, which one process writes to."""
    lexical_seconds: float = Field(1.0, gt=0)
    """Longest wait for the lexical index, and half of the caller's remaining time at most; then
    the search goes on by vectors alone."""
    opensearch_url: SecretStr = _opensearch("URL", SecretStr(""))
    """Addresses of OpenSearch, separated by commas: `https://search:9200`. Empty keeps the
    lexical index in this process."""
    opensearch_user: str = _opensearch("USER", "")
    """User for basic authentication."""
    opensearch_password: SecretStr = _opensearch("PASSWORD", SecretStr(""))
    """Password of the user."""
    opensearch_bearer_token: SecretStr = _opensearch("BEARER_TOKEN", SecretStr(""))
    """Token sent as `Authorization: Bearer` instead of user and password."""
    opensearch_ca_file: Path | None = _opensearch("CA_FILE", None)
    """Certificates that sign OpenSearch's own; by default those that come with Python's certifi."""
    opensearch_client_certificate: Path | None = _opensearch("CLIENT_CERTIFICATE", None)
    """Certificate this service shows to OpenSearch."""
    opensearch_client_key: Path | None = _opensearch("CLIENT_KEY", None)
    """Key of that certificate."""
    opensearch_prefix: str = _opensearch("PREFIX", "citemesh", pattern="^[a-z0-9][a-z0-9_-]*$")
    """First part of the names of indexes and aliases, for rights and for cleaning up."""
    opensearch_shards: int = _opensearch("SHARDS", 1, ge=1, le=256)
    """Primary shards of an index when it is built; a project lies in one of them."""
    opensearch_connections: int = _opensearch("CONNECTIONS", 10, ge=1)
    """Most connections to each address of OpenSearch."""
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
    rerank_candidates: int = Field(4, ge=0, le=100)
    """Fused hits that the cross-encoder reads; 0 turns it off."""
    rerank_seconds: float = Field(0.0, ge=0)
    """Longest wait for the reranker; 0 is as long as the one in use asks for (0.25 for the local
    cross-encoder, about 1.5 for an API)."""
    rerank_share: float = Field(0.3, gt=0, le=1)
    """Share of the caller's remaining time that the cross-encoder may use."""
    rerank_weight: float = Field(0.1, ge=0, lt=1)
    """How much the cross-encoder's opinion counts against the fused order."""
    outbox_poll_seconds: float = Field(2.0, gt=0)
    """How often the outbox is looked at when nobody wakes it."""
    garbage_poll_seconds: float = Field(30.0, gt=0)
    """How often retired versions are looked for when nobody wakes the collector."""
    garbage_batch: int = Field(500, ge=1)
    """Chunks deleted in one transaction."""
    reconcile_hours: float = Field(6.0, gt=0)
    """How often the lexical index is compared with Postgres, beside once at every start."""
    space_batch: int = Field(64, ge=1, le=256)
    """Chunks of a call that fills an embedding space beside the active one; also the unit that a
    killed process loses."""
    space_parallel: int = Field(2, ge=1, le=64)
    """Such calls at the same time, for each space."""
    space_lease_seconds: float = Field(10.0, ge=1.0)
    """How long a replica that fell silent goes on owning the filling of a space."""
    space_poll_seconds: float = Field(2.0, gt=0)
    """How often it is looked whether a space lacks something, when nobody says so."""
    space_refresh_seconds: float = Field(5.0, gt=0)
    """How often the embedding service is asked which space is active."""
    standby_unasked_chunks: int = Field(1000, ge=0)
    """A space set behind the active one is filled by itself, and stands by, while the corpus has
    at most so many chunks; for more, `citemesh reindex --space` shows the cost first."""
    request_memory_days: float = Field(7.0, gt=0)
    """How long a request id is remembered."""
