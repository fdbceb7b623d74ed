"""What S3 and the way to it say, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as NotConnected,
)

from meshkit.logging import logger
from meshkit.settings import SettingsInvalid
from services.ingestion.blobs.failures import full, refused, unavailable

log = logger(__name__)

_MISSING = {"NoSuchKey", "NoSuchUpload", "404"}
_AWAY = (NotConnected, HTTPClientError, aiohttp.ClientError, TimeoutError, ConnectionResetError)


def code_of(error: ClientError) -> str:
    """S3's own name of what is wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_refusal(error: ClientError) -> bool:
    """Whether the store answered and meant it, so that asking again changes nothing."""
    status = _status(error)
    passing = status == 429 or (status >= 500 and status != 501)
    return not passing and code_of(error) not in ("RequestTimeout", "SlowDown")


@contextmanager
def s3_errors(*, at_start: bool = False) -> Iterator[None]:
    """Turns errors of the client into FileNotFoundError and `Unavailable`.

    Args:
        at_start: Let those through that no patience mends.
    """
    try:
        yield
    except _AWAY as error:
        log.warning("the blob store does not answer", error=type(error).__name__)
        raise unavailable() from error
    except ClientError as error:
        raise _meaning(error, at_start=at_start) from error
    except BotoCoreError as error:
        if at_start:
            raise
        log.error("the blob store cannot be used", error=type(error).__name__)
        raise refused() from error


def _meaning(error: ClientError, *, at_start: bool) -> Exception:
    code, status = code_of(error), _status(error)
    if code in _MISSING and not at_start:
        return FileNotFoundError("the source file is not in the blob store")
    if status == 507:
        log.error("the blob store is full", code=code)
        return full()
    if not is_refusal(error):
        log.warning("the blob store does not answer", code=code, status=status)
        return unavailable()
    if at_start:
        as_it_is: Exception = error
        return as_it_is
    log.error("the blob store refuses", code=code, status=status)
    return refused()


def refusal_at_start(error: Exception, bucket: str, endpoint_url: str) -> SettingsInvalid:
    """The sentence for a bucket that cannot be used."""
    where = f"the bucket '{bucket}' of {endpoint_url or 'AWS'}"
    if isinstance(error, ClientError):
        code, status = code_of(error), _status(error)
        if code == "NoSuchBucket" or status == 404:
            problem = "which does not exist"
        elif status == 403:
            problem = f"which refuses these credentials to list, write or delete ({code})"
        else:
            problem = f"which refuses this service ({code or status}); is its region right?"
        return SettingsInvalid(f"CITEMESH_BLOB_URL names {where}, {problem.rstrip('.')}.")
    if isinstance(error, NoCredentialsError):
        return SettingsInvalid(
            f"CITEMESH_BLOB_URL names {where}, and there are no credentials for it:"
            " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role."
        )
    return SettingsInvalid(f"CITEMESH_BLOB_URL names {where}, which cannot be used: {error}")
