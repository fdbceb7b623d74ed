"""Signing and verifying the request context: Ed25519 JSON Web Tokens.

A keyring file lists the public keys a process trusts, each with the issuer it
belongs to; a signing key file holds one private key. Two keys of one issuer
overlap while keys are rotated (`meshkit.rotation`): add the new public key
everywhere, switch the signer, then remove the old one. Both files are JSON Web Keys
(RFC 8037), and both are read again when they were replaced: no process restarts.

An issuer other than `gateway` is a service acting for itself: it can claim no
more than the scopes in `SERVICE_SCOPES`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.types import Options

from meshkit import clock
from meshkit.context import INTERNAL, READ, SCOPES, WRITE, RequestContext
from meshkit.errors import Unauthenticated
from meshkit.key_files import (
    KEYRING,
    LOOK_SECONDS,
    PRIVATE,
    PUBLIC,
    KeyFileInvalid,
    TrustedKey,
    Watched,
    new_key,
    private_key,
    public_keys,
    read_file,
    write_file,
)
from meshkit.logging import logger
from meshkit.project import DEFAULTS, ProjectSettings

log = logger(__name__)

AUDIENCE = "citemesh"
GATEWAY = "gateway"
LEEWAY_SECONDS = clock.LEEWAY_SECONDS
REQUEST_SECONDS = 300.0
"""Life of a context. A call is checked when it begins, so a stream may last longer; a call
begun later needs a context signed later."""
SERVICE_SCOPES = frozenset({READ, WRITE, INTERNAL})
_REMEMBERED = 4096


class Signer:
    """Signs contexts with one private key."""

    def __init__(
        self,
        kid: str,
        issuer: str,
        key: Ed25519PrivateKey,
        now: Callable[[], float] = clock.now,
        file: Watched | None = None,
    ) -> None:
        self._now = now
        self._file = file
        self.kid = kid
        self.issuer = issuer
        self._key = key

    @classmethod
    def load(cls, path: Path, now: Callable[[], float] = clock.now) -> Signer:
        """Reads a signing key, and a new one when the file is replaced by that.

        Raises:
            KeyFileInvalid: when the file is missing or holds no such key.
        """
        file = Watched(path)
        return cls(*private_key(path), now, file)

    def follow(self) -> str:
        """Takes up the key that replaced this one, if any did; returns the name of the key."""
        if self._file is None or not self._file.replaced(LOOK_SECONDS):
            return self.kid
        try:
            kid, _, key = private_key(self._file.path, self.issuer)
        except KeyFileInvalid as error:
            self._file.useless(error)
            return self.kid
        self.kid, self._key = kid, key
        log.info("signing with another key", kid=kid)
        return kid

    def sign(
        self,
        *,
        project_id: str,
        principals: Iterable[str],
        scopes: Iterable[str],
        subject: str,
        request_id: str,
        seconds: float = REQUEST_SECONDS,
        settings: ProjectSettings = DEFAULTS,
    ) -> RequestContext:
        """A context with these claims that is valid for `seconds`."""
        self.follow()
        now = self._now()
        principals, scopes = tuple(principals), frozenset(scopes)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": int(now),
            "exp": int(now + seconds),
            "project": project_id,
            "principals": principals,
            "scopes": sorted(scopes),
            "request_id": request_id,
        }
        if settings != DEFAULTS:
            claims["settings"] = settings.as_json()
        token = jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self.kid})
        return RequestContext(
            project_id=project_id,
            principals=principals,
            scopes=scopes,
            subject=subject,
            request_id=request_id,
            issuer=self.issuer,
            expires_at=float(claims["exp"]),
            token=token,
            settings=settings,
        )

    def sign_background(
        self, project_id: str, principals: Iterable[str], request_id: str
    ) -> RequestContext:
        """A context for work a service does by itself, bound to one project."""
        return self.sign(
            project_id=project_id,
            principals=principals,
            scopes=SERVICE_SCOPES,
            subject=f"service:{self.issuer}",
            request_id=request_id,
        )


class Verifier:
    """Verifies contexts against a keyring.

    A token that was verified once is remembered until it expires, because the
    calls of one request bring the same token many times.
    """

    def __init__(
        self,
        keys: Iterable[TrustedKey],
        now: Callable[[], float] = clock.now,
        file: Watched | None = None,
    ) -> None:
        self._now = now
        self._file = file
        self._keys = {key.kid: key for key in keys}
        self._verified: OrderedDict[str, RequestContext] = OrderedDict()

    @classmethod
    def load(cls, path: Path, now: Callable[[], float] = clock.now) -> Verifier:
        """Reads a keyring, and what replaces it later.

        Raises:
            KeyFileInvalid: when the file is missing or holds something else.
        """
        file = Watched(path)
        return cls(public_keys(path), now, file)

    def _follow(self, after: float) -> None:
        if self._file is None or not self._file.replaced(after):
            return
        try:
            self._keys = {key.kid: key for key in public_keys(self._file.path)}
        except KeyFileInvalid as error:
            self._file.useless(error)
            return
        # What a key that is gone had signed is worth nothing from now on.
        self._verified.clear()
        log.info("another keyring is trusted", kids=sorted(self._keys))

    def _key(self, kid: str) -> TrustedKey | None:
        if kid not in self._keys:
            # It may just have been added; looking costs less than the call that asks for it.
            self._follow(0.0)
        return self._keys.get(kid)

    def verify(self, token: str) -> RequestContext:
        """The claims of a token.

        Raises:
            Unauthenticated: CONTEXT_EXPIRED, CONTEXT_EARLY or CONTEXT_INVALID.
        """
        self._follow(LOOK_SECONDS)
        known = self._verified.get(token)
        if known is not None:
            if self._now() > known.expires_at + LEEWAY_SECONDS:
                del self._verified[token]
                raise Unauthenticated("CONTEXT_EXPIRED", "The signed context has expired.")
            return known
        context = self._decode(token)
        self._verified[token] = context
        if len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return context

    def _decode(self, token: str) -> RequestContext:
        invalid = Unauthenticated(
            "CONTEXT_INVALID", "The signed context is not valid here; get one from POST /v1/token."
        )
        try:
            key = self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                raise invalid
            claims = jwt.decode(
                token,
                key.key,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=key.issuer,
                options=untimed("exp", "iat", "iss", "aud", "sub"),
            )
            check_times(claims, self._now())
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("CONTEXT_EXPIRED", "The signed context has expired.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated(
                "CONTEXT_EARLY", "The signed context is not valid yet: is a clock wrong?"
            ) from None
        except jwt.PyJWTError:
            raise invalid from None
        try:
            return _context(claims, token)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise invalid from None


def untimed(*required: str) -> Options:
    """Has PyJWT demand claims but leave times to `check_times`: it goes by the machine's clock."""
    return {
        "require": list(required),
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
    }


def check_times(claims: Mapping[str, Any], now: float) -> None:
    """Whether a token is valid at a time, give or take `LEEWAY_SECONDS`.

    Raises:
        jwt.ExpiredSignatureError: no more.
        jwt.ImmatureSignatureError: not yet.
        jwt.DecodeError: it states a time that is none.
    """
    try:
        times = {name: int(claims[name]) for name in ("exp", "iat", "nbf") if name in claims}
    except (OverflowError, TypeError, ValueError):
        raise jwt.DecodeError("a time must be a number") from None
    if times["exp"] <= now - LEEWAY_SECONDS:
        raise jwt.ExpiredSignatureError
    if max(times.get("iat", 0), times.get("nbf", 0)) > now + LEEWAY_SECONDS:
        raise jwt.ImmatureSignatureError


def _context(claims: dict[str, Any], token: str) -> RequestContext:
    scopes = frozenset(claims["scopes"])
    allowed = SCOPES - {INTERNAL} if claims["iss"] == GATEWAY else SERVICE_SCOPES
    if not scopes <= allowed:
        raise ValueError("scope beyond what the issuer may grant")
    strings = (claims["project"], claims["request_id"], claims["sub"], *claims["principals"])
    if not all(isinstance(value, str) for value in strings):
        raise TypeError("claims must be strings")
    return RequestContext(
        project_id=claims["project"],
        principals=tuple(claims["principals"]),
        scopes=scopes,
        subject=claims["sub"],
        request_id=claims["request_id"],
        issuer=claims["iss"],
        expires_at=float(claims["exp"]),
        token=token,
        settings=ProjectSettings.from_json(claims.get("settings", {})),
    )


def create_keyring(directory: Path, issuers: Iterable[str]) -> None:
    """Writes `keyring.json` and `<issuer>.key` for each issuer, unless they exist.

    An issuer that joins later gets a key and a line in the keyring; what exists
    is never changed.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ring = directory / KEYRING
    keys: list[dict[str, Any]] = read_file(ring)["keys"] if ring.exists() else []
    for issuer in issuers:
        path = directory / f"{issuer}.key"
        if path.exists() and any(entry["issuer"] == issuer for entry in keys):
            continue
        private, public = new_key(issuer)
        write_file(path, private, PRIVATE)
        keys.append(public)
    write_file(ring, {"keys": keys}, PUBLIC)
