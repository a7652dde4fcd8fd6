# SPDX-License-Identifier: Apache-2.0
"""Proofs of OAuth clients (DPoP), made by PyJWT and not by ARx."""

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc.jwk import JWKRegistry
from jwt.algorithms import ECAlgorithm, OKPAlgorithm


class Prover:
    """A client's key.

    Args:
        algorithm: ``ES256`` or ``EdDSA``.
    """

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self.key: Any = (
            ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()
        )
        kind: Any = ECAlgorithm if algorithm == "ES256" else OKPAlgorithm
        self.jwk: dict[str, Any] = kind.to_jwk(self.key.public_key(), as_dict=True)
        self.private_jwk: dict[str, Any] = kind.to_jwk(self.key, as_dict=True)
        self.jkt = JWKRegistry.import_key(self.jwk).thumbprint()

    def proof(
        self, method: str, url: str, token: str | None = None, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a proof; a claim or a member of the header that is None is left out."""
        facts: dict[str, Any] = {"htm": method, "htu": url, "iat": int(time.time()), "jti": secrets.token_urlsafe(12)}
        if token is not None:
            facts["ath"] = urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        facts = {name: value for name, value in (facts | claims).items() if value is not None}
        whole = {"typ": "dpop+jwt", "jwk": self.jwk} | (header or {})
        return jwt.encode(facts, self.key, algorithm=self.algorithm, headers=whole)

    def headers(self, method: str, url: str, token: str, **changes: Any) -> dict[str, str]:
        """Return the headers of a request with an access token."""
        return {"authorization": f"DPoP {token}", "dpop": self.proof(method, url, token, **changes)}
