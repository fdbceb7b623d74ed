"""Who is calling: an API key or a token of an external issuer.

A key that was looked up is remembered for a few seconds, so that most requests
need no database; revoking a key here forgets it at once, and at another gateway
within `key_cache_seconds`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from gateway.api_keys import ApiKeys, FoundKey, digest, looks_like_key
from gateway.json_web_tokens import TokenVerifier
from gateway.limits import Limits
from gateway.projects import Projects
from meshkit import clock
from meshkit.errors import MeshError, NotFound, Unauthenticated
from meshkit.project import DEFAULTS, ProjectSettings

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as the gateway could verify it."""

    subject: str
    """The key's id, or `user:<sub>`."""
    project_id: str
    principals: tuple[str, ...]
    scopes: frozenset[str]
    expires_at: float | None
    """Seconds since 1970 after which the credential ends by itself; None for never."""
    settings: ProjectSettings = DEFAULTS
    """Of the project."""


class Authenticator:
    """Turns an Authorization header into a caller."""

    def __init__(
        self,
        keys: ApiKeys,
        projects: Projects,
        limits: Limits,
        tokens: TokenVerifier | None,
        cache_seconds: float,
    ) -> None:
        self._keys = keys
        self._projects = projects
        self._limits = limits
        self._tokens = tokens
        self._cache_seconds = cache_seconds
        self._known: OrderedDict[bytes, tuple[float, FoundKey | None]] = OrderedDict()
        self._live: OrderedDict[str, tuple[float, ProjectSettings | None]] = OrderedDict()
        self._used: set[str] = set()
        self._forgotten = 0
        """How often everything was forgotten: what was read before is not remembered after."""

    async def authenticate(self, headers: Mapping[str, str], address: str) -> Caller:
        """The caller behind the headers; a refusal counts against the address.

        Raises:
            Unauthenticated: CREDENTIALS_MISSING, KEY_INVALID, KEY_EXPIRED, KEY_REVOKED,
                TOKEN_INVALID or TOKEN_EXPIRED.
            LimitExceeded: when the address failed too often.
        """
        try:
            return await self._caller(headers.get("authorization", ""))
        except Unauthenticated:
            await self._limits.failed(address)
            raise

    async def _caller(self, header: str) -> Caller:
        scheme, _, secret = header.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated(
                "CREDENTIALS_MISSING", "Send `Authorization: Bearer` with an API key."
            )
        if looks_like_key(secret):
            return await self._by_key(digest(secret))
        if self._tokens is not None and secret.count(".") == 2:
            return await self._by_token(self._tokens, secret)
        raise Unauthenticated("KEY_INVALID", "The API key is not known here.")

    async def _by_key(self, hashed: bytes) -> Caller:
        key = await self._look_up(hashed)
        if key is None or key.project_deleted:
            raise Unauthenticated("KEY_INVALID", "The API key is not known here.")
        if key.revoked:
            raise Unauthenticated("KEY_REVOKED", "The API key was revoked.")
        expires_at = key.expires_at.timestamp() if key.expires_at else None
        if key.expired or (expires_at is not None and expires_at <= clock.now()):
            raise Unauthenticated("KEY_EXPIRED", "The API key has expired.")
        self._used.add(key.id)
        return Caller(key.id, key.project_id, key.principals, key.scopes, expires_at, key.settings)

    async def _look_up(self, hashed: bytes) -> FoundKey | None:
        now = time.monotonic()
        known = self._known.get(hashed)
        if known is not None and known[0] > now:
            return known[1]
        forgotten = self._forgotten
        found = await self._keys.find(hashed)
        if forgotten != self._forgotten:
            return found
        self._known[hashed] = (now + self._cache_seconds, found)
        self._known.move_to_end(hashed)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _by_token(self, tokens: TokenVerifier, token: str) -> Caller:
        project_id, subject, principals, scopes, expires_at = await tokens.verify(token)
        settings = await self._settings_of(project_id)
        if settings is None:
            raise Unauthenticated("TOKEN_INVALID", "The token names a project that is not here.")
        return Caller(subject, project_id, principals, scopes, expires_at, settings)

    async def _settings_of(self, project_id: str) -> ProjectSettings | None:
        """Settings of a living project; None when there is no such project."""
        now = time.monotonic()
        known = self._live.get(project_id)
        if known is not None and known[0] > now:
            return known[1]
        forgotten = self._forgotten
        live: ProjectSettings | None = None
        with suppress(NotFound):
            project = await self._projects.get(project_id)
            live = None if project.deleted_at else ProjectSettings.from_json(project.settings)
        if forgotten != self._forgotten:
            return live
        self._live[project_id] = (now + self._cache_seconds, live)
        self._live.move_to_end(project_id)
        if len(self._live) > _REMEMBERED:
            self._live.popitem(last=False)
        return live

    def forget(self) -> None:
        """Looks every key and project up anew; called after a key or project changed."""
        self._forgotten += 1
        self._known.clear()
        self._live.clear()

    async def write_last_used(self) -> None:
        """Writes down which keys were used since the last time."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._keys.touch(sorted(used))
        except MeshError:
            self._used |= used
            raise
