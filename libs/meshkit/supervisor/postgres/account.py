"""Which account Postgres runs as, and where that account can reach.

Postgres refuses to run as root. When the supervisor is root it starts Postgres as `nobody`; no
account is created and the mode of no directory above the data directory is changed.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged account by number."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account to drop to, or None when this process is not root and need not drop."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(entry.pw_uid, entry.pw_gid)


def can_reach(path: Path, account: Account) -> bool:
    """Whether `account` may enter `path` and every directory above it, by their mode bits."""
    resolved = path.resolve()
    return all(_may_enter(directory.stat(), account) for directory in (resolved, *resolved.parents))


def _may_enter(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def hand_over(path: Path, account: Account | None) -> None:
    """Gives the directory or file to `account`, when there is one to give it to."""
    if account is not None:
        os.chown(path, account.uid, account.gid)
