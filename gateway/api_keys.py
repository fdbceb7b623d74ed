"""API keys: how one looks, how it is stored, and where the rows are.

A key is `cmk_` and 256 random bits. Only its SHA-256 is stored. A slow password
hash would protect a secret that somebody chose and somebody else may guess;
nobody guesses 256 random bits, and a fast hash can be found by index in every
request.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshkit.database.pool import Database
from meshkit.errors import NotFound
from meshkit.ids import new_id
from meshkit.project import DEFAULTS, ProjectSettings

PREFIX = "cmk_"
_SHAPE = re.compile(r"cmk_[A-Za-z0-9_-]{43}")
_SHOWN = len(PREFIX) + 6


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed; the secret is in no row."""

    id: str
    project_id: str
    prefix: str
    name: str
    scopes: tuple[str, ...]
    principals: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class FoundKey:
    """What a presented key stands for."""

    id: str
    project_id: str
    scopes: frozenset[str]
    principals: tuple[str, ...]
    revoked: bool
    expired: bool
    project_deleted: bool
    expires_at: datetime | None
    settings: ProjectSettings = DEFAULTS
    """Of the key's project."""


def new_secret() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def looks_like_key(text: str) -> bool:
    """Whether a bearer token has the shape of a key of ours."""
    return _SHAPE.fullmatch(text) is not None


def digest(secret: str) -> bytes:
    """What is stored and looked up in place of the key."""
    return hashlib.sha256(secret.encode()).digest()


class ApiKeys:
    """The rows of `gateway.api_key`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, hashed: bytes) -> FoundKey | None:
        """The key with this digest, whatever its project and state."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM gateway.find_caller($1)", hashed)
        if row is None:
            return None
        return FoundKey(
            id=row["key_id"],
            project_id=row["project_id"],
            scopes=frozenset(row["scopes"]),
            principals=tuple(row["principals"]),
            revoked=row["revoked"],
            expired=row["expired"],
            project_deleted=row["project_deleted"],
            expires_at=row["expires_at"],
            settings=ProjectSettings.from_json(json.loads(row["settings"])),
        )

    async def create(
        self,
        project_id: str,
        *,
        name: str,
        scopes: Sequence[str],
        principals: Sequence[str],
        expires_at: datetime | None = None,
        secret: str = "",
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which nobody can read again.

        Args:
            project_id: A project that exists.
            name: What people call the key.
            scopes: Of `read`, `write`, `admin`; not empty.
            principals: What the key's holder is, for access lists.
            expires_at: End of its life; None for none.
            secret: Secret to give it, when somebody made one already.
        """
        secret = secret or new_secret()
        async with self._database.project(project_id) as connection:
            row = await connection.fetchrow(
                """
                INSERT INTO gateway.api_key
                    (id, project_id, prefix, hash, name, scopes, principals, expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
                """,
                new_id("key"),
                project_id,
                secret[:_SHOWN],
                digest(secret),
                name,
                sorted(set(scopes)),
                list(dict.fromkeys(principals)),
                expires_at,
            )
        return _key(row), secret

    async def of(self, project_id: str) -> list[ApiKey]:
        """Every key of a project, oldest first, revoked ones too."""
        async with self._database.project(project_id) as connection:
            rows = await connection.fetch("SELECT * FROM gateway.api_key ORDER BY id")
        return [_key(row) for row in rows]

    async def revoke(self, key_id: str) -> ApiKey:
        """Ends a key's life now; a second time changes nothing.

        Raises:
            NotFound: KEY_NOT_FOUND.
        """
        async with self._database.connection() as connection:
            project_id = await connection.fetchval("SELECT gateway.project_of_key($1)", key_id)
        if project_id is not None:
            async with self._database.project(project_id) as connection:
                row = await connection.fetchrow(
                    """
                    UPDATE gateway.api_key SET revoked_at = coalesce(revoked_at, now())
                    WHERE id = $1 RETURNING *
                    """,
                    key_id,
                )
            if row is not None:
                return _key(row)
        raise NotFound("KEY_NOT_FOUND", f"There is no key {key_id}.")

    async def touch(self, key_ids: Sequence[str]) -> None:
        """Notes that keys were used just now."""
        async with self._database.connection() as connection:
            await connection.execute("SELECT gateway.touch_keys($1)", list(key_ids))


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        project_id=row["project_id"],
        prefix=row["prefix"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        principals=tuple(row["principals"]),
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
        expires_at=row["expires_at"],
    )
