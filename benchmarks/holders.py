# SPDX-License-Identifier: Apache-2.0
"""Rows of bound tokens: what holders' keys cost, beside bearer tokens, Ed25519 alone, and tenuo's signed warrants."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import nacl.bindings
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from arx_verifier.token import call_proof
from arx_verifier.token.holder import HolderKey, audience_public
from arx_verifier.token.macaroon import Macaroon
from benchmarks.measure import Batch, each, repeated
from benchmarks.peer_biscuit import Blocks, checks
from benchmarks.peer_jose import PyJwt
from benchmarks.peer_tenuo import Chain
from benchmarks.rows import Row, Verifiers, allow, signing
from benchmarks.world import AT, FIELDS, KEY, five, handed, root

HOPS: Final = 3
KEYS: Final = tuple([HolderKey(bytes([number]) * 32) for number in range(1, HOPS + 3)])


def bound(hops: int) -> Macaroon:
    """``world.handed`` with a key for each holder."""
    token = root(holder=KEYS[0].public, aud_key=audience_public(KEY))
    for hop in range(hops):
        token = token.delegate(f"acme/worker-{hop}", five(900 - hop), key=KEYS[hop + 1].public, by=KEYS[hop])
    return token


def signed(token: Macaroon, key: HolderKey, *, signs: bool = False) -> Callable[[int], Iterable[str]]:
    """Return what signs so many calls of a bound token."""
    signer = call_proof.CallSigner(token, "orders", key, signs=signs)
    return lambda count: [signer.sign(FIELDS, AT) for _ in range(count)]


def checks_alone() -> dict[str, Batch]:
    """A check of a signature for each hop, by its 32-byte key: by libsodium, as the verifier has it, and by OpenSSL."""
    public, secret = nacl.bindings.crypto_sign_seed_keypair(bytes(32))
    signed_message = nacl.bindings.crypto_sign(bytes(200), secret)
    signature, message = signed_message[:64], signed_message[64:]

    def libsodium() -> None:
        for _ in range(HOPS):
            nacl.bindings.crypto_sign_open(signed_message, public)

    def openssl() -> None:
        for _ in range(HOPS):
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)

    return {f"{HOPS} Ed25519 checks": repeated(libsodium), f"{HOPS} Ed25519 checks, cryptography": repeated(openssl)}


def rows(made: Verifiers) -> Iterator[Row]:
    """Decisions, delegations and calls of bound tokens."""
    token, parent, last = bound(HOPS), handed(HOPS), KEYS[HOPS]
    ours = {
        "ARx bound, first sight": each(allow(made.make(cache_bytes=0)), signed(token, last)),
        "ARx bound, parent seen": each(allow(made.make()), signed(token, last)),
        "ARx bound and signed, parent seen": each(allow(made.make()), signed(token, last, signs=True)),
        "ARx bearer, first sight": each(allow(made.make(cache_bytes=0)), signing(parent)),
        "ARx bearer, parent seen": each(allow(made.make()), signing(parent)),
    }
    theirs = {
        **checks_alone(),
        "tenuo": Chain(HOPS).decide(),
        "biscuit": Blocks(checks(1000), *(checks(900 - hop) for hop in range(HOPS))).decide(),
        "PyJWT EdDSA": PyJwt("EdDSA", HOPS).decide(),
    }
    chars = {"ARx bound, parent seen": len(next(iter(signed(token, last)(1))))}
    yield Row(f"decide, {HOPS} bound delegations, five constraints each", ours | theirs, chars)
    text, narrower, worker = bound(0).encode(), five(900), KEYS[1].public
    delegated = {
        "ARx bound": repeated(
            lambda: Macaroon.parse(text).delegate("acme/worker", narrower, key=worker, by=KEYS[0]).encode()
        ),
        "tenuo": Chain(0).delegate(100),
        "biscuit": Blocks(checks(1000)).delegate(checks(100)),
    }
    yield Row("delegate one hop of a bound token, five constraints", delegated, {})
    signer = call_proof.CallSigner(token, "orders", last)
    evident = call_proof.CallSigner(token, "orders", last, signs=True)
    makes = {
        "ARx bound": repeated(lambda: signer.sign(FIELDS, AT)),
        "ARx bound and signed": repeated(lambda: evident.sign(FIELDS, AT)),
        "tenuo": repeated(Chain(HOPS).sign),
    }
    yield Row("make the per-call token of a bound token", makes, {})
