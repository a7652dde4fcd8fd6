# SPDX-License-Identifier: Apache-2.0
"""The closest equivalent work of other libraries, as their own documents say to do it.

They do less than a verifier of ARx: none looks for kills, refuses a repeated call or records a decision here.  What
each one does is in README.md.  Every function fails if its outcome is not the one that is meant.
"""

import time
from collections.abc import Callable
from typing import Any

import jwt
import pymacaroons  # type: ignore[import-untyped]
import tenuo
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pymacaroons import MACAROON_V2

from benchmarks.world import ARGS, KEY, TOOL, constraints

Work = Callable[[], Any]


class Tenuo:
    """Signed warrants: a chain of them, each with its five constraints, and the last holder's signature of the call."""

    def __init__(self, hops: int) -> None:
        self.root = tenuo.SigningKey.generate()
        self.keys = [tenuo.SigningKey.generate() for _ in range(hops + 2)]
        first = self.capabilities(1000)
        self.chain = [
            tenuo.Warrant.issue(self.root, capabilities=first, ttl_seconds=3600, holder=self.keys[0].public_key)
        ]
        for hop in range(hops):
            self.chain.append(
                self.chain[-1].attenuate(
                    self.capabilities(900 - hop),
                    self.keys[hop],
                    ttl_seconds=3000 - hop,
                    holder=self.keys[hop + 1].public_key,
                )
            )
        self.text = tenuo.encode_warrant_stack(self.chain)
        self.authorizer = tenuo.Authorizer(trusted_roots=[self.root.public_key])

    @staticmethod
    def capabilities(limit: int) -> dict[str, Any]:
        """The five constraints of ``world.constraints``."""
        return {
            TOOL: {
                "order": tenuo.Exact("o-4711"),
                "amount": tenuo.Range(0, limit),
                "region": tenuo.OneOf(["eu", "us"]),
                "path": tenuo.Pattern("/data/*"),
                "note": tenuo.Wildcard(),
            }
        }

    def sign(self) -> bytes:
        """The last holder's proof of the call."""
        return bytes(self.chain[-1].sign(self.keys[len(self.chain) - 1], TOOL, ARGS, int(time.time())))

    def check(self) -> Work:
        """Text in, decision out."""
        signature = self.sign()

        def work() -> None:
            chain = tenuo.decode_warrant_stack_base64(self.text)
            result = self.authorizer.check_chain(chain, TOOL, ARGS, signature=signature)
            assert result.leaf_depth == len(self.chain) - 1

        return work

    def hand_over(self) -> Work:
        """Text in, text of a narrower warrant out."""
        text, key = self.chain[-1].to_base64(), self.keys[len(self.chain) - 1]
        holder, narrower = self.keys[len(self.chain)].public_key, self.capabilities(100)

        def work() -> str:
            warrant = tenuo.Warrant.from_base64(text)
            return str(warrant.attenuate(narrower, key, ttl_seconds=600, holder=holder).to_base64())

        return work

    def mint(self) -> Work:
        """A root warrant with five constraints, to text."""
        first, holder = self.capabilities(1000), self.keys[0].public_key
        return lambda: tenuo.Warrant.issue(self.root, capabilities=first, ttl_seconds=3600, holder=holder).to_base64()


def predicates(limit: int) -> list[str]:
    """Five restrictions in pymacaroons' style."""
    return ["order = o-4711", f"amount <= {limit}", "region in eu,us", "path like /data/*", "note shorter 100"]


def pymacaroon(hops: int) -> pymacaroons.Macaroon:
    """A macaroon with five predicates from the mint and five a hop."""
    token = pymacaroons.Macaroon("acme", "token-1", KEY, version=MACAROON_V2)
    for limit in (1000, *(900 - hop for hop in range(hops))):
        for predicate in predicates(limit):
            token.add_first_party_caveat(predicate)
    return token


def pymacaroons_check(hops: int) -> Work:
    """Text in, decision out: each predicate met by the cheapest checker there is, an exact one."""
    text = pymacaroon(hops).serialize()
    met = [p for limit in (1000, *(900 - hop for hop in range(hops))) for p in predicates(limit)]

    def work() -> None:
        checker = pymacaroons.Verifier()
        for predicate in met:
            checker.satisfy_exact(predicate)
        assert checker.verify(pymacaroons.Macaroon.deserialize(text), KEY)

    return work


def pymacaroons_hand_over() -> Work:
    """Text in, text with five more predicates out."""
    text = pymacaroon(0).serialize()

    def work() -> str:
        token = pymacaroons.Macaroon.deserialize(text)
        for predicate in predicates(100):
            token.add_first_party_caveat(predicate)
        return str(token.serialize())

    return work


def pymacaroons_mint() -> Work:
    """A new macaroon with five predicates, to text."""
    return lambda: pymacaroon(0).serialize()


def tenuo_text(chain: Tenuo) -> str:
    """A chain's text, written anew."""
    return str(tenuo.encode_warrant_stack(chain.chain))


def claims(hops: int) -> dict[str, Any]:
    """What the token says, flat: a JWT cannot be handed over, so the mint writes all rules into it."""
    now = int(time.time())
    said = {"iss": "acme", "aud": "orders", "sub": "acme/support", "iat": now, "exp": now + 3600, "tool": TOOL}
    rules = []
    for limit in (1000, *(900 - hop for hop in range(hops))):
        rules.append({"order": "o-4711", "amount": [0, limit], "region": ["eu", "us"], "path": "/data/", "note": 100})
    return said | {"rules": rules}


def jwt_keys(algorithm: str) -> tuple[Any, Any]:
    """Signing and verifying key."""
    if algorithm == "HS256":
        return KEY, KEY
    key = Ed25519PrivateKey.generate()
    return key, key.public_key()


def jwt_check(algorithm: str, hops: int) -> Work:
    """Text in, decision out; the rules are checked by a few lines, as an application would."""
    signing, verifying = jwt_keys(algorithm)
    text = jwt.encode(claims(hops), signing, algorithm=algorithm)

    def work() -> None:
        said = jwt.decode(text, verifying, algorithms=[algorithm], audience="orders", issuer="acme")
        assert said["tool"] == TOOL
        for rule in said["rules"]:
            assert ARGS["order"] == rule["order"]
            assert rule["amount"][0] <= ARGS["amount"] <= rule["amount"][1]
            assert ARGS["region"] in rule["region"]
            assert ARGS["path"].startswith(rule["path"])
            assert len(ARGS["note"]) <= rule["note"]

    return work


def jwt_mint(algorithm: str) -> Work:
    """A new token with one rule of five constraints."""
    signing, _ = jwt_keys(algorithm)
    said = claims(0)
    return lambda: jwt.encode(said, signing, algorithm=algorithm)


def jwt_proof() -> Work:
    """A signed proof of one call, about as a DPoP proof (RFC 9449) is one."""
    signing, _ = jwt_keys("EdDSA")
    said = {
        "htm": "POST",
        "htu": "https://orders.example/refunds",
        "iat": int(time.time()),
        "jti": "A" * 22,
        "ath": "A" * 43,
    }
    return lambda: jwt.encode(said, signing, algorithm="EdDSA", headers={"typ": "dpop+jwt"})


assert set(constraints(1)) == set(ARGS) == set(Tenuo.capabilities(1)[TOOL])
