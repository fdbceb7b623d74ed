"""What an operator can tell ingestion."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from meshkit.settings import ServiceSettings
from services.ingestion.clamav import Address, Scanner


class IngestionSettings(ServiceSettings, service="ingestion"):
    """Settings of the ingestion service."""

    max_watches: int = Field(2000, ge=1)
    """Documents followed at once, beside other calls; one more is refused with SERVICE_BUSY."""
    blob_url: str = Field(
        default_factory=lambda: Path(".citemesh/blobs").absolute().as_uri(),
        validation_alias=AliasChoices("CITEMESH_INGESTION_BLOB_URL", "CITEMESH_BLOB_URL"),
    )
    """Where source files are kept: `file:///path/of/a/directory` or `s3://bucket/prefix`.

    S3's credentials are AWS's own: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or
    the role of the pod or machine."""
    s3_endpoint_url: str = Field(
        "",
        validation_alias=AliasChoices(
            "CITEMESH_INGESTION_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"
        ),
    )
    """URL of an S3-compatible store; empty means AWS."""
    s3_region: str = Field(
        "",
        validation_alias=AliasChoices(
            "CITEMESH_INGESTION_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"
        ),
    )
    """Region of the bucket; empty means what AWS's configuration files say."""
    spool_directory: Path | None = None
    """Where temporary copies of files in S3 are kept while they are read; the system's directory
    for temporary files when empty. Room for `documents_at_once` of the largest files."""
    max_file_bytes: int = Field(1 << 30, ge=1)
    """Largest file that is accepted."""
    clamav_address: str = Field(
        "",
        validation_alias=AliasChoices(
            "CITEMESH_INGESTION_CLAMAV_ADDRESS", "CITEMESH_CLAMAV_ADDRESS"
        ),
    )
    """Where ClamAV's daemon listens, `host:3310` or `/run/clamav/clamd.ctl`: every file is scanned
    for malware before it is opened. While the daemon is away, documents wait. Empty: no scan."""
    clamav_max_bytes: int = Field(25 << 20, ge=1)
    """Largest file that is sent to the scanner; at most StreamMaxLength in clamd.conf."""
    clamav_seconds: float = Field(130.0, gt=0)
    """Time that scanning one file may take; clamd itself gives up after its MaxScanTime (120 s)."""
    clamav_unscannable: Literal["refuse", "pass"] = "refuse"
    """What becomes of a file that cannot be scanned wholly, because it, or what it holds, is larger
    than the scanner's limits: refused, or taken with a warning on the document."""
    queue_limit: int = Field(20_000, ge=1)
    """Documents of one project that may wait; more are refused with QUEUE_FULL."""
    documents_at_once: int = Field(2, ge=1, le=64)
    """Documents one replica works on at the same time."""
    lease_seconds: float = Field(6.0, ge=1.0)
    """How long a worker that fell silent keeps its document."""
    poll_seconds: float = Field(2.0, gt=0)
    """How often the queue is looked at when nobody wakes the worker."""
    most_starts: int = Field(5, ge=1)
    """Starts without progress after which a document is given up. A parser has a process of its
    own, so what is counted is mostly the machine's dying: three in a row can be chance."""
    patience_seconds: float = Field(60.0, ge=0)
    """How long a call to another service is repeated while that service is away."""
    retry_later_seconds: float = Field(15.0, ge=0)
    """How long a document rests in the queue when patience has ended."""
    chunk_tokens: int = Field(200, ge=8, le=500)
    """Tokens of a chunk at most, by the tokenizer of the embedding space."""
    chunk_overlap_tokens: int = Field(30, ge=0)
    """Tokens that a chunk repeats of the one before, at most; half a chunk is the limit."""
    embed_batch: int = Field(32, ge=1, le=256)
    """Chunks a call to the embedding service carries; also the unit of progress."""
    embed_parallel: int = Field(3, ge=1, le=64)
    """Calls to the embedding service at the same time, over all documents."""
    replicas: int = Field(1, ge=1)
    """Replicas of this service: they share the tokens a minute of a space's provider."""
    extraction_memory_bytes: int = Field(1_500_000_000, ge=300_000_000)
    """Memory that reading one file may take."""
    extraction_seconds: float = Field(300.0, gt=0)
    """Time that reading one file may take, recognition of scanned pages not counted."""
    ocr_languages: str = Field("eng+deu+fra,chi_sim", pattern=r"^[A-Za-z_+/]+(,[A-Za-z_+/]+)*$")
    """Languages of scans by tesseract's names; after a comma, those to try when the ones before
    read badly. What is not installed is left out, with a line at the start that names it."""
    ocr_page_seconds: float = Field(60.0, gt=0)
    """Processor time that one reading of one scanned page may take."""
    ocr_most_pages: int = Field(2000, ge=0)
    """Pages of one document that are recognised; further ones are left out with a warning."""
    sweep_seconds: float = Field(5.0, gt=0)
    """How often removals that were begun and not finished are taken up again."""
    orphan_hours: float = Field(24.0, gt=0)
    """Age at which a stored file that no document names is removed."""

    @field_validator("clamav_address")
    @classmethod
    def _address_of_scanner(cls, value: str) -> str:
        if value:
            Address.parse(value)
        return value

    @property
    def largest_upload(self) -> int:
        """Bytes of the largest file that can become ready."""
        refused = self.clamav_address and self.clamav_unscannable == "refuse"
        return min(self.max_file_bytes, self.clamav_max_bytes) if refused else self.max_file_bytes

    def scanner(self) -> Scanner | None:
        """The malware scanner, if there is to be one."""
        if not self.clamav_address:
            return None
        return Scanner(
            Address.parse(self.clamav_address),
            self.clamav_max_bytes,
            self.clamav_seconds,
            pass_unscannable=self.clamav_unscannable == "pass",
        )

    @model_validator(mode="after")
    def _overlap_fits(self) -> IngestionSettings:
        if self.chunk_overlap_tokens > self.chunk_tokens // 2:
            raise ValueError("the overlap must be at most half of CITEMESH_INGESTION_CHUNK_TOKENS")
        return self
