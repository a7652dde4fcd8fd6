# SPDX-License-Identifier: Apache-2.0
"""The same work with JSON Web Tokens: PyJWT and joserfc.

A JWT cannot be delegated: the mint would have to make each, with all rules in it.  Few lines check the rules from the
claims, as an application would.  No proof of a call unless said, no kills, no refused repetition, no record.
"""

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwk
from joserfc import jwt as joserfc

from benchmarks.measure import Batch, repeated
from benchmarks.world import ARGS, KEY, TOOL

PROOF = {"htm": "POST", "htu": "https://orders.example/refunds", "jti": "A" * 22, "ath": "A" * 43}  # RFC 9449


def claims(hops: int | None) -> dict[str, Any]:
    """What the token says, flat; with no number of delegations just audience, task, expiry, tool and holder."""
    now = int(time.time())
    said = {"iss": "acme", "aud": "orders", "sub": "acme/support", "iat": now, "exp": now + 3600, "tool": TOOL}
    if hops is None:
        return said | {"task": "t-1", "act": "acme/worker"}
    return said | {
        "rules": [
            {"order": "o-4711", "amount": [0, limit], "region": ["eu", "us"], "path": "/data/", "note": 100}
            for limit in (1000, *(900 - hop for hop in range(hops)))
        ]
    }


def check(said: dict[str, Any]) -> None:
    """Look at what an application has to look at itself."""
    assert said["tool"] == TOOL
    if "task" in said:
        assert said["task"] == "t-1"
    for rule in said.get("rules", ()):
        assert ARGS["order"] == rule["order"]
        assert rule["amount"][0] <= ARGS["amount"] <= rule["amount"][1]
        assert ARGS["region"] in rule["region"]
        assert ARGS["path"].startswith(rule["path"])
        assert len(ARGS["note"]) <= rule["note"]


class PyJwt:
    """A token of PyJWT; ``algorithm`` is HS256 or EdDSA."""

    def __init__(self, algorithm: str, hops: int | None) -> None:
        self.algorithm, self.said = algorithm, claims(hops)
        key = Ed25519PrivateKey.generate()
        self._signing, self._verifying = (KEY, KEY) if algorithm == "HS256" else (key, key.public_key())
        self.text = jwt.encode(self.said, self._signing, algorithm=algorithm)

    def decide(self) -> Batch:
        """Text in, decision out."""
        algorithms = [self.algorithm]
        return repeated(
            lambda: check(
                jwt.decode(self.text, self._verifying, algorithms=algorithms, audience="orders", issuer="acme")
            )
        )

    def mint(self) -> Batch:
        """A new token, to text."""
        return repeated(lambda: jwt.encode(self.said, self._signing, algorithm=self.algorithm))

    def sign(self) -> str:
        """A proof of one call, about as a DPoP proof is one."""
        said = PROOF | {"iat": int(time.time())}
        return jwt.encode(said, self._signing, algorithm=self.algorithm, headers={"typ": "dpop+jwt"})


class Joserfc:
    """A token of joserfc; ``algorithm`` is HS256 or Ed25519 (RFC 9864)."""

    def __init__(self, algorithm: str, hops: int | None) -> None:
        self.algorithm, self.said = algorithm, claims(hops)
        self._key: Any = jwk.OctKey.import_key(KEY) if algorithm == "HS256" else jwk.OKPKey.generate_key("Ed25519")
        self._header = {"alg": algorithm, "typ": "JWT"}
        self.text = joserfc.encode(self._header, self.said, self._key, algorithms=[algorithm])

    def decide(self) -> Batch:
        """Text in, decision out."""
        algorithms = [self.algorithm]
        wanted = joserfc.JWTClaimsRegistry(
            iss={"essential": True, "value": "acme"}, aud={"essential": True, "value": "orders"}
        )

        def work() -> None:
            said = joserfc.decode(self.text, self._key, algorithms=algorithms).claims
            wanted.validate(said)
            check(said)

        return repeated(work)

    def mint(self) -> Batch:
        """A new token, to text."""
        return repeated(lambda: joserfc.encode(self._header, self.said, self._key, algorithms=[self.algorithm]))

    def sign(self) -> str:
        """A proof of one call, about as a DPoP proof is one."""
        said = PROOF | {"iat": int(time.time())}
        return joserfc.encode({"alg": self.algorithm, "typ": "dpop+jwt"}, said, self._key, algorithms=[self.algorithm])
