# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the token's bytes, from SPEC alone: what the vectors are made with.

It shares no line with ``arx_verifier``, so that a mistake has to be made twice to go unseen.  It only makes tokens, and
makes wrong ones as readily as right ones.
"""

import base64
import hashlib
import hmac
import json
from decimal import Decimal
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.secret import SecretBox

AT = 1_800_000_000_000
KEY = hashlib.sha256(b"arx vectors: the key k1.0 of orders").digest()
OTHER_KEY = hashlib.sha256(b"arx vectors: another key").digest()
INCARNATION = "aW5jYXJuYXRpb24tMDAwMQ"
NONCE = b"nonce-0000000001"
HOP, HOP2 = "aG9wLTAwMDAx", "aG9wLTAwMDAy"

Caveat = dict[str, Any] | bytes


def canonical(value: Any) -> bytes:
    """SPEC 3: sorted, no white space, UTF-8; the standard library's writer, with these settings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def jcs(value: Any) -> bytes:
    """RFC 8785: members in the order of UTF-16, numbers as ECMAScript writes them."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(canonical(name) + b":" + jcs(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(jcs, value)) + b"]"
    return number(value).encode() if isinstance(value, float) else canonical(value)


def number(value: float) -> str:
    """ECMA-262 6.1.6.1.20, Number::toString."""
    negative, all_digits, power = Decimal(repr(value)).normalize().as_tuple()
    digits, minus = "".join(map(str, all_digits)), "-" if negative else ""
    assert isinstance(power, int)
    point = len(digits) + power  # n of the ECMAScript text; len(digits) is k
    if digits == "0":
        return "0"
    if len(digits) <= point <= 21:
        return minus + digits + "0" * power
    if 0 < point <= 21:
        return f"{minus}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if digits[1:] else ""
    return f"{minus}{digits[0]}{rest}e{point - 1:+d}"


def text(raw: bytes) -> str:
    """SPEC 2.2: base64url without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def step(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(key, data, hashlib.sha256).digest()


def packet(kind: int, data: bytes) -> bytes:
    """SPEC 2.1: kind, length, data."""
    size = len(data)
    return bytes([kind, size] if size < 128 else [kind, size % 128 + 128, size // 128]) + data


class Third(NamedTuple):
    """A third-party caveat."""

    location: bytes
    identifier: bytes
    verification_id: bytes


class Token(NamedTuple):
    """The parts of a token, to be changed at will before it is written."""

    location: bytes
    identifier: bytes
    caveats: tuple[bytes | Third, ...]
    signature: bytes

    def raw(self) -> bytes:
        """SPEC 2.1."""
        out = b"\x02" + packet(1, self.location) + packet(2, self.identifier) + b"\0"
        for caveat in self.caveats:
            if isinstance(caveat, bytes):
                out += packet(2, caveat) + b"\0"
            else:
                out += packet(1, caveat.location) + packet(2, caveat.identifier) + packet(4, caveat.verification_id)
                out += b"\0"
        return out + b"\0" + packet(6, self.signature)

    def text(self) -> str:
        """SPEC 2.2."""
        return "arx1_" + text(self.raw())

    def with_caveats(self, *caveats: Caveat | Third) -> "Token":
        """SPEC 5.1: fold more caveats in."""
        signature = self.signature
        added: list[bytes | Third] = []
        for caveat in caveats:
            if isinstance(caveat, Third):
                parts = step(signature, caveat.verification_id) + step(signature, caveat.identifier)
                signature = step(signature, parts)
                added.append(caveat)
            else:
                raw = caveat if isinstance(caveat, bytes) else canonical(caveat)
                signature = step(signature, raw)
                added.append(raw)
        return self._replace(caveats=(*self.caveats, *added), signature=signature)


def identifier(**changes: Any) -> dict[str, Any]:
    """SPEC 4: an ordinary identifier; a change to None leaves a member out."""
    fields: dict[str, Any] = {
        "agent": "acme/support",
        "aud": "orders",
        "born": [INCARNATION, 7],
        "depth": 4,
        "exp": AT + 600_000,
        "iat": AT - 60_000,
        "id": text(b"token-id-0000001"),
        "kid": "k1.0",
        "policy": "cG9saWN5LTAwMDAwMDAwMDE",
        "session": "s-aaaabbbbccccdddd",
        "task": "t-aaaabbbbccccdddd",
        "v": 1,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


ANYTHING: dict[str, Any] = {"allow": [{"tool": "*"}]}


def mint(
    *caveats: Caveat | Third, key: bytes = KEY, location: bytes = b"acme", raw: bytes | None = None, **changes: Any
) -> Token:
    """SPEC 5.1: a root token; without caveats it allows anything."""
    named = canonical(identifier(**changes)) if raw is None else raw
    start = step(step(b"macaroons-key-generator" + bytes(9), key), named)
    return Token(location, named, (), start).with_caveats(*(caveats or (ANYTHING,)))


def prefixed(*fields: bytes) -> bytes:
    """SPEC 8.2: each field behind its length."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def call(request: dict[str, Any], *, at: int = AT, audience: str = "orders", nonce: bytes = NONCE) -> dict[str, Any]:
    """SPEC 8: the caveat that signs a request."""
    http = request.get("http")
    fields: tuple[bytes, ...]
    if http is None:
        fields = (b"tool", request["tool"].encode(), jcs(request["args"]))
    else:
        body = bytes(32) if http["body"] is None else hashlib.sha256(http["body"].encode()).digest()
        fields = (b"http", http["method"].encode(), http["target"].encode(), body)
    start = (b"arx/1/call", audience.encode(), str(at).encode(), text(nonce).encode())
    digest = hashlib.sha256(prefixed(*start, *fields)).digest()
    return {"call": [text(digest), at, text(nonce)]}


def links(token_id: bytes, *hops: str) -> list[str]:
    """SPEC 5.3: the links of a chain."""
    found = [token_id]
    for hop in hops:
        found.append(hashlib.sha256(b"arx/1/link" + found[-1] + base64.urlsafe_b64decode(hop)).digest()[:16])
    return [text(link) for link in found]


CAVEAT_KEY = hashlib.sha256(b"arx vectors: the key of a caveat").digest()
THIRD_PARTY = canonical({"id": "k1.0:t-aaaabbbbccccdddd", "tools": ["orders.refund"]})


def generated(key: bytes) -> bytes:
    """SPEC 5.1: a key, passed through the key generator."""
    return step(b"macaroons-key-generator" + bytes(9), key)


def requiring(token: Token, third_party: bytes = THIRD_PARTY, key: bytes = CAVEAT_KEY, location: bytes = b"m") -> Token:
    """SPEC 6.5: a token, or a discharge, with a third-party caveat."""
    nonce = step(token.signature, b"arx/1/seal" + generated(key) + third_party)[:24]
    box = SecretBox(token.signature).encrypt(generated(key), nonce)
    return token.with_caveats(Third(location, third_party, bytes(box)))


def discharge(
    *caveats: Caveat, third_party: bytes = THIRD_PARTY, key: bytes = CAVEAT_KEY, location: bytes = b"acme"
) -> Token:
    """SPEC 6.6: a discharge, unbound."""
    return Token(location, third_party, (), step(generated(key), third_party)).with_caveats(*caveats)


def bound(made: Token, parent: Token) -> Token:
    """SPEC 6.6: the same, bound to a token."""
    zero = bytes(32)
    return made._replace(signature=step(zero, step(zero, parent.signature) + step(zero, made.signature)))


def joined(token: Token, *discharges: Token) -> str:
    """SPEC 2.3: what is presented."""
    return "~".join(each.text() for each in (token, *discharges))


def hkdf(key: bytes, info: bytes) -> bytes:
    """SPEC 16.3: HKDF-SHA256 without salt."""
    return HKDF(SHA256(), 32, None, info).derive(key)


def audience_key_of(key: bytes) -> X25519PrivateKey:
    """SPEC 16.4: the X25519 key of an audience."""
    return X25519PrivateKey.from_private_bytes(hkdf(key, b"arx/1/holder"))


def aud_key_of(key: bytes = KEY) -> str:
    """SPEC 16.4: ``aud_key``."""
    return text(audience_key_of(key).public_key().public_bytes_raw())


class Holder(NamedTuple):
    """A holder's key.  SPEC 16.1."""

    seed: bytes

    @property
    def public(self) -> str:
        """The public half."""
        return text(Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """RFC 8032."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)

    def common(self, aud_key: str) -> bytes:
        """SPEC 16.3: the private half as one of X25519, and its result with the audience's key."""
        own = X25519PrivateKey.from_private_bytes(hashlib.sha512(self.seed).digest()[:32])
        return own.exchange(X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(aud_key + "=")))


def holder(name: str) -> Holder:
    """A key for a name."""
    return Holder(hashlib.sha256(b"arx vectors: the holder " + name.encode()).digest())


FIRST, SECOND, THIRD = holder("first"), holder("second"), holder("third")


def mint_bound(*caveats: Caveat | Third, key: bytes = KEY, by: str = FIRST.public, **changes: Any) -> Token:
    """SPEC 16.1: a root token that is bound to a key."""
    return mint(*caveats, key=key, **{"holder": by, "aud_key": aud_key_of(key)} | changes)


def hop(
    token: Token,
    by: Holder,
    to: str,
    key: str,
    *,
    name: str = HOP,
    hops: tuple[str, ...] = (),
    realm: str = "acme",
    audience: str = "orders",
    before: bytes | None = None,
    **members: Any,
) -> dict[str, Any]:
    """SPEC 16.2: the caveat of a delegation; ``hops`` are those before it."""
    unsigned = {"hop": name, "key": key, "to": to} | members
    link = links(base64.urlsafe_b64decode(json.loads(token.identifier)["id"] + "=="), *hops, name)[-1]
    digest = hashlib.sha256((token.signature if before is None else before) + canonical(unsigned)).digest()
    fields = [field.encode() for field in ("arx/1/hop", realm, audience, link, to, key)]
    return unsigned | {"sig": text(by.sign(b"\0".join([*fields, digest])))}


def bound_call(
    token: Token,
    by: Holder,
    request: dict[str, Any],
    *,
    hops: tuple[str, ...] = (),
    sign: bool = False,
    aud_key: str = "",
    audience: str = "orders",
    realm: str = "acme",
    before: bytes | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """SPEC 16.3: the caveat of a bound token's call; ``hops`` are the token's."""
    plain = call(request, audience=audience, **changes)
    signature = token.signature if before is None else before
    if sign:
        link = links(base64.urlsafe_b64decode(json.loads(token.identifier)["id"] + "=="), *hops)[-1]
        fields = [field.encode() for field in ("arx/1/signed", realm, audience, link)]
        proof = by.sign(b"\0".join([*fields, hashlib.sha256(signature).digest()]) + canonical(plain))
    else:
        secret = hkdf(by.common(aud_key or aud_key_of()) + signature, b"arx/1/bound/" + audience.encode())
        proof = step(secret, canonical(plain))[:16]
    return {"call": [*plain["call"], text(proof)]}
