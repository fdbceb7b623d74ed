"""Tokens of an external issuer, verified against its published keys.

Only asymmetric algorithms from a list are accepted, and issuer, audience,
expiry and subject are required. Keys come from a JSON Web Key Set in a file or
at an https URL and are read again when a token names a key that is not there,
but at most every `REFRESH_SECONDS`, so that made-up key ids cost nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jwt

from gateway.settings import GatewaySettings, words
from meshkit import clock
from meshkit.errors import Unauthenticated, Unavailable
from meshkit.identity import check_times, untimed
from meshkit.logging import logger
from meshkit.settings import SettingsInvalid

log = logger(__name__)

REFRESH_SECONDS = 30.0
MAX_SET_BYTES = 1024 * 1024
GRANTED = frozenset({"read", "write", "admin"})
"""Scopes an external issuer can give; `internal` is for services alone."""


class KeySet:
    """The issuer's public keys by id."""

    def __init__(self, source: str) -> None:
        local = source.startswith(("http://127.0.0.1", "http://localhost"))
        if "://" in source and not (source.startswith("https://") or local):
            raise SettingsInvalid(
                "CITEMESH_GATEWAY_JWT_JWKS must be a file or an https URL: keys that anybody on"
                " the way could exchange prove nothing."
            )
        self._source = source
        self._keys: dict[str, Any] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def get(self, kid: str) -> Any:
        """The key of that id.

        Raises:
            Unauthenticated: TOKEN_INVALID when the issuer has no such key.
            Unavailable: ISSUER_UNAVAILABLE when no key could be read yet.
        """
        if kid not in self._keys:
            async with self._reading:
                if kid not in self._keys and time.monotonic() - self._read_at > REFRESH_SECONDS:
                    await self._read()
        if kid in self._keys:
            return self._keys[kid]
        if not self._keys:
            raise Unavailable(
                "ISSUER_UNAVAILABLE", "The keys of the token's issuer cannot be read now."
            )
        raise invalid()

    async def _read(self) -> None:
        self._read_at = time.monotonic()
        try:
            text = await asyncio.to_thread(self._fetch)
            found = jwt.PyJWKSet.from_dict(json.loads(text))
        except (OSError, ValueError, urllib.error.URLError, jwt.PyJWTError) as error:
            # The former keys stay: an issuer that is away does not log everyone out.
            log.warning("key set unreadable", source=self._source, error=type(error).__name__)
            return
        self._keys = {key.key_id: key.key for key in found.keys if key.key_id}

    def _fetch(self) -> bytes:
        if "://" not in self._source:
            return Path(self._source).read_bytes()
        request = urllib.request.Request(self._source)  # noqa: S310 - checked in __init__
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            text: bytes = answer.read(MAX_SET_BYTES + 1)
        if len(text) > MAX_SET_BYTES:
            raise ValueError("key set too large")
        return text


def invalid() -> Unauthenticated:
    """The error for a token that proves nothing; it does not say why to whoever made it."""
    return Unauthenticated("TOKEN_INVALID", "The bearer token is not valid here.")


class TokenVerifier:
    """Turns a token into claims the gateway understands."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._keys = KeySet(settings.jwt_jwks)
        self._settings = settings
        self._algorithms = list(words(settings.jwt_algorithms))

    async def verify(self, token: str) -> tuple[str, str, tuple[str, ...], frozenset[str], float]:
        """Project, subject, principals, scopes and expiry that a token stands for.

        Raises:
            Unauthenticated: TOKEN_INVALID or TOKEN_EXPIRED.
        """
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise invalid() from None
        if header.get("alg") not in self._algorithms:
            raise invalid()
        key = await self._keys.get(str(header.get("kid", "")))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                options=untimed("exp", "iss", "aud", "sub"),
            )
            check_times(claims, clock.now())
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("TOKEN_EXPIRED", "The bearer token has expired.") from None
        except (jwt.PyJWTError, TypeError, ValueError):
            raise invalid() from None
        project = claims.get(settings.jwt_project_claim)
        if not isinstance(project, str) or not project:
            raise Unauthenticated(
                "TOKEN_INVALID", f"The token has no claim '{settings.jwt_project_claim}'."
            )
        subject = f"user:{claims['sub']}"
        groups = [
            name if ":" in name else f"group:{name}"
            for name in _strings(claims.get(settings.jwt_principals_claim))
        ]
        scopes = GRANTED.intersection(_strings(claims.get(settings.jwt_scopes_claim)))
        return project, subject, (subject, *groups), scopes, float(claims["exp"])


def _strings(claim: Any) -> list[str]:
    if isinstance(claim, str):
        return claim.split()
    if isinstance(claim, list):
        return [item for item in claim if isinstance(item, str) and item]
    return []
