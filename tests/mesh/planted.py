"""What must not be found in any log: words and secrets that tests put into a mesh."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from jwt.algorithms import ECAlgorithm

PROVIDER_KEY = "planted-provider-key-5e1f7a"
QUESTION = "Which plantedquestion harbours the brass sextant?"
SENTENCE = "The plantedsentence about a brass sextant was written by the harbour master."
TITLE = "plantedtitle of a logbook"
AUDIENCE = "citemesh-tests"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Signs tokens that the mesh believes."""

    private: EllipticCurvePrivateKey
    settings: dict[str, str]
    """Of the gateway."""

    @classmethod
    def at(cls, directory: Path) -> Issuer:
        """One whose key set lies in a directory."""
        private = generate_private_key(SECP256R1())
        published = json.loads(ECAlgorithm.to_jwk(private.public_key()))
        published |= {"kid": "planted", "alg": "ES256", "use": "sig"}
        path = directory / "jwks.json"
        path.write_text(json.dumps({"keys": [published]}))
        settings = {
            "CITEMESH_GATEWAY_JWT_JWKS": str(path),
            "CITEMESH_GATEWAY_JWT_ISSUER": "https://issuer.test",
            "CITEMESH_GATEWAY_JWT_AUDIENCE": AUDIENCE,
        }
        return cls(private, settings)

    def token(self, project: str) -> str:
        """A token that may read a project for a few minutes."""
        claims = {
            "iss": "https://issuer.test",
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": int(time.time()) + 300,
            "project": project,
            "scope": "read",
        }
        return jwt.encode(claims, self.private, "ES256", headers={"kid": "planted"})
