# SPDX-License-Identifier: Apache-2.0
"""The HMAC chain of a token, and the links of its delegations.  SPEC 5.

``extend`` computes the next signature from a signature and a caveat; a token's signature is that step repeated.  The
chain is that of libmacaroons, so any macaroon library can verify it.  This module parses no caveat and reads no clock.
"""

from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Final, TypeAlias

import arx_verifier.token.wire as wire
from arx_verifier._native import twin
from arx_verifier.token.wire import ThirdPartyPacket

GENERATOR_KEY: Final = b"macaroons-key-generator".ljust(32, b"\0")  # libmacaroons passes each root key through this
LINK_LABEL: Final = b"arx/1/link"
LINK_BYTES: Final = 16

# RFC 2104 with SHA-256 for the 32-byte keys of the chain.  With the two pads written out a fold takes 0.8 us, with
# hmac.digest 1.2 us; a test compares both.  Longer keys never occur: every key is a SHA-256 output.
_INNER: Final = bytes(i ^ 0x36 for i in range(256))
_OUTER: Final = bytes(i ^ 0x5C for i in range(256))
_INNER_REST: Final = b"\x36" * 32
_OUTER_REST: Final = b"\x5c" * 32

equal = compare_digest

if TYPE_CHECKING:
    from hashlib import _Hash

    States: TypeAlias = tuple[_Hash, _Hash]


@twin()
def extend(signature: bytes, caveat: bytes) -> bytes:
    """Return the signature after one first-party caveat.  SPEC 5.1.

    Args:
        signature: The 32 bytes before this caveat.
        caveat: The caveat's bytes as received, never re-encoded ones.

    Returns:
        The 32 bytes after it: HMAC-SHA256(signature, caveat).
    """
    inner = sha256(signature.translate(_INNER) + _INNER_REST + caveat).digest()
    return sha256(signature.translate(_OUTER) + _OUTER_REST + inner).digest()


@twin()
def states_of(signature: bytes) -> "States":
    """Return both hashes of ``extend``, begun, for a signature that is extended many times.

    Args:
        signature: The 32 bytes to extend.

    Returns:
        The inner and the outer hash.  They are as secret as the signature: both together can extend it.
    """
    return sha256(signature.translate(_INNER) + _INNER_REST), sha256(signature.translate(_OUTER) + _OUTER_REST)


@twin()
def ends_in(states: "States", caveat: bytes, signature: bytes) -> bool:
    """Return whether one more caveat ends in *signature*.

    Args:
        states: What ``states_of`` returned for the signature before.
        caveat: The caveat's bytes as received.
        signature: The 32 bytes that it should end in.
    """
    inner, outer = states[0].copy(), states[1].copy()
    inner.update(caveat)
    outer.update(inner.digest())
    return compare_digest(outer.digest(), signature)  # in constant time: an attacker chose *signature*


def extend_third_party(signature: bytes, verification_id: bytes, caveat: bytes) -> bytes:
    """Return the signature after one third-party caveat, as libmacaroons computes it.  SPEC 6.4.

    Args:
        signature: The 32 bytes before this caveat.
        verification_id: The sealed caveat key.
        caveat: The caveat's identifier.

    Returns:
        The 32 bytes after it.
    """
    return extend(signature, extend(signature, verification_id) + extend(signature, caveat))


def derive(root_key: bytes) -> bytes:
    """Return the output of libmacaroons' key generator for a root or audience key of any length: 32 bytes."""
    return digest(GENERATOR_KEY, root_key, "sha256")


def hkdf(key: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 without salt.  RFC 5869.

    Args:
        key: The input keying material.
        info: What the result is for.
    """
    return extend(extend(bytes(32), key), info + b"\x01")  # 32 bytes are one block of the expansion


@twin()
def fold(derived_key: bytes, identifier: bytes, caveats: Iterable[bytes | ThirdPartyPacket]) -> bytes:
    """Return the signature of a token.  SPEC 5.1.

    Args:
        derived_key: What ``derive`` returned.
        identifier: The identifier's bytes as received.
        caveats: Each caveat as received, in order.

    Returns:
        The 32-byte signature.
    """
    inner = sha256(derived_key.translate(_INNER) + _INNER_REST + identifier).digest()
    signature = sha256(derived_key.translate(_OUTER) + _OUTER_REST + inner).digest()
    for caveat in caveats:
        if isinstance(caveat, bytes):  # ``extend``, written out
            inner = sha256(signature.translate(_INNER) + _INNER_REST + caveat).digest()
            signature = sha256(signature.translate(_OUTER) + _OUTER_REST + inner).digest()
        else:
            signature = extend_third_party(signature, caveat.verification_id, caveat.identifier)
    return signature


def signatures(derived_key: bytes, identifier: bytes, caveats: Iterable[bytes | ThirdPartyPacket]) -> list[bytes]:
    """Return the signature after the identifier and that after each caveat; the last one is that of ``fold``.

    Args:
        derived_key: What ``derive`` returned.
        identifier: The identifier's bytes as received.
        caveats: Each caveat as received, in order.
    """
    signature = extend(derived_key, identifier)
    found = [signature]
    for caveat in caveats:
        if isinstance(caveat, bytes):
            signature = extend(signature, caveat)
        else:
            signature = extend_third_party(signature, caveat.verification_id, caveat.identifier)
        found.append(signature)
    return found


@twin()
def appended(body: bytes, signature: bytes, caveat: bytes) -> tuple[bytes, bytes]:
    """Return a macaroon with one more first-party caveat.

    Args:
        body: Everything before the end marker of the caveats.
        signature: The 32 bytes of the same.
        caveat: The caveat's bytes.

    Returns:
        Body and signature after it.

    Raises:
        MalformedTokenError: The caveat has more than 16 383 bytes.
    """
    return body + wire.packet(wire.IDENTIFIER, caveat) + b"\0", extend(signature, caveat)


@twin()
def links_of(first: str, hops: Iterable[bytes]) -> list[str]:
    """Return the links of a token's delegations, in order.  SPEC 5.3.

    Args:
        first: The link before the first delegation: the token's id.
        hops: Each delegation's 9 random bytes, in 12 characters of base64url.

    Returns:
        For each the first 16 bytes of SHA-256(label, link, hop) as text.  A link is public: it needs no key.

    Raises:
        MalformedTokenError: The first name or a hop is not canonical base64url.
    """
    link, found = wire.bytes_of(first), []
    for hop in hops:
        link = sha256(LINK_LABEL + link + wire.bytes_of(hop)).digest()[:LINK_BYTES]
        found.append(wire.text_of(link))
    return found
