"""What callers see when a store cannot do its work: always an error that says to come back."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from meshkit.errors import Unavailable
from meshkit.logging import logger

log = logger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}


def unavailable() -> Unavailable:
    """The store does not answer."""
    return Unavailable(
        "BLOB_STORE_UNAVAILABLE",
        "The store of source files cannot be reached now; try again.",
        retry_after=5.0,
    )


def refused() -> Unavailable:
    """The store answers and does not let this service in; somebody has to look at it."""
    return Unavailable(
        "BLOB_STORE_REFUSED",
        "The store of source files refuses this service; its operator has to grant access again.",
        retry_after=30.0,
    )


def full() -> Unavailable:
    """The store, or the disk for temporary copies, has no room."""
    return Unavailable(
        "BLOB_STORE_FULL",
        "There is no room for the file now; its operator has to make some.",
        retry_after=30.0,
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what a disk says into what a caller can act on; a missing file stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        log.error("the disk fails", errno=errno.errorcode.get(error.errno or 0, ""))
        raise (full() if error.errno in _FULL else unavailable()) from error
