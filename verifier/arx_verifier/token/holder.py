# SPDX-License-Identifier: Apache-2.0
"""Holder keys: the key of a bound token's holder, signed delegations, and the proof of a call.  SPEC 16.

A bound token names its holder's Ed25519 key.  Its text is useless without that key: each delegation is signed with it,
and each call carries a value that only the holder and the audience can compute.  This module reads no clock and decides
nothing; ``verification.holder_proof`` does.
"""

import functools
import os
import re
from typing import Any, Final, NamedTuple, Self

import arx_verifier.token.chain as chain
import arx_verifier.token.wire as wire
from arx_verifier.errors import AttenuationError, MalformedTokenError, SettingsError

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAC_BYTES: Final = 16  # a forger has to guess at the verifier, one call at a time

_AUDIENCE_LABEL: Final = b"arx/1/holder"
_CALL_KEY_LABEL: Final = b"arx/1/bound/"
_HOP_MARK: Final = b'"hop":"'

# The end of a delegation's caveat, behind the mark of its hop.  It has no brace but the last, so that an argument named
# `hop` in a rule is never taken for the member.  The atomic group keeps the work linear when ``sig`` comes many times.
_SIGNED: Final = re.compile(rb'([^{}]{12})","key":"(.{43})"(?>([^{}]*?),"sig":"(.{86})")([^{}]*+\})', re.DOTALL)
_HOP_CHARS: Final = 12
_UNSIGNED: Final = slice(None, _HOP_CHARS + len(b'","key":"') + 43 + 1)
_TO: Final = b',"to":'
_NAMES: Final = re.compile(rb',"([^"]*)":')


@functools.cache
def _nacl() -> Any:
    """Return PyNaCl; slow to import, and only bound tokens need it."""
    import nacl.bindings
    import nacl.exceptions

    return nacl


def audience_secret(audience_key: bytes) -> bytes:
    """Return the audience's X25519 private key, derived from its audience key.  SPEC 16.4.

    Args:
        audience_key: 32 bytes.
    """
    return chain.hkdf(audience_key, _AUDIENCE_LABEL)


def audience_public(audience_key: bytes) -> str:
    """Return the audience's X25519 public key, 43 characters: ``aud_key`` of the tokens that this key signs.

    Args:
        audience_key: 32 bytes.
    """
    return public_of(audience_secret(audience_key))


def public_of(secret: bytes) -> str:
    """Return the public half of an X25519 private key, 43 characters."""
    return wire.text_of(_nacl().bindings.crypto_scalarmult_base(secret))


def agree(secret: bytes, holder: str) -> bytes | None:
    """Return the shared secret of an audience and a holder, computed by the audience.  SPEC 16.3.

    Args:
        secret: The audience's X25519 private key.
        holder: The holder's Ed25519 public key, 43 characters.

    Returns:
        32 bytes; None if the key is no point of the group of prime order, such as one of small order.
    """
    nacl = _nacl()
    try:
        # libsodium refuses points of small order and outside of the main subgroup here, and a result of zeros below.
        point = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(wire.bytes_of(holder))
        common: bytes = nacl.bindings.crypto_scalarmult(secret, point)
    except (nacl.exceptions.CryptoError, MalformedTokenError):
        return None
    return common


def call_key(common: bytes, signature: bytes, audience: str) -> bytes:
    """Return the key of a bound token's calls.  SPEC 16.3.

    Args:
        common: The shared secret, from ``agree``.
        signature: The chain's last signature, before ``call``.
        audience: The audience.
    """
    return chain.hkdf(common + signature, _CALL_KEY_LABEL + audience.encode("ascii"))


def mac_of(key: bytes, call: bytes) -> bytes:
    """Return the proof of a call by its key: 22 characters.

    Args:
        key: ``call_key``.
        call: The caveat of the call without a proof of its holder.
    """
    return wire.base64_of(chain.extend(key, call)[:MAC_BYTES])


def hop_digest(before: bytes, caveat: bytes) -> bytes:
    """Return the digest of a delegation's restrictions and of the token before it, which its holder signs.

    Args:
        before: The chain's signature before the delegation, a secret.
        caveat: The delegation's caveat without ``sig``.
    """
    # Hashed, so that a record can have it: with the signature itself, a reader could open third-party caveats.
    return wire.sha256_of(before, caveat)


def hop_message(realm: str, audience: str, link: str, to: str, key: str, said: bytes) -> bytes:
    """Return the message that a holder signs to delegate.  SPEC 16.2.

    Args:
        realm: The realm's name.
        audience: The audience.
        link: The delegation's link.
        to: The next holder's agent path.
        key: The next holder's key.
        said: ``hop_digest``.
    """
    return f"arx/1/hop\0{realm}\0{audience}\0{link}\0{to}\0{key}\0".encode() + said


def call_message(realm: str, audience: str, link: str, said: bytes, call: bytes) -> bytes:
    """Return the message that a holder signs for a call that requires a signature.  SPEC 16.3.

    Args:
        realm: The realm's name.
        audience: The audience.
        link: The token's last link.
        said: SHA-256 of the chain's last signature, before ``call``.
        call: The caveat of the call without a proof of its holder.
    """
    return f"arx/1/signed\0{realm}\0{audience}\0{link}\0".encode() + said + call


def has_signed(public: str, message: bytes, signature: bytes) -> bool:
    """Return whether the holder of a key has signed a message; False if the key is invalid.

    Args:
        public: The Ed25519 public key, 43 characters.
        message: The message.
        signature: 64 bytes.
    """
    try:
        # libsodium refuses keys and points of small order, other spellings of a key, and S beyond the group's order.
        _nacl().bindings.crypto_sign_open(signature + message, wire.bytes_of(public))
    except (_nacl().exceptions.CryptoError, MalformedTokenError, ValueError):
        return False
    return True


class HolderKey:
    """An Ed25519 private key of a bound token's holder, in memory; ``repr`` shows the public half.

    Attributes:
        public: The public half, 43 characters of base64url: what the delegator needs.
    """

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """Take over a key.

        Args:
            seed: The private key of RFC 8032, 32 bytes.

        Raises:
            SettingsError: It has another length.
        """
        if len(seed) != SEED_BYTES:
            raise SettingsError(f"a holder key has {SEED_BYTES} bytes")
        public, self._secret = _nacl().bindings.crypto_sign_seed_keypair(seed)
        self.public = wire.text_of(public)

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(os.urandom(SEED_BYTES))

    @property
    def holder(self) -> "HolderKey":
        """The key itself, as of any ``HolderSource`` of the agent library."""
        return self

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes."""
        signed: bytes = _nacl().bindings.crypto_sign(message, self._secret)
        return signed[:SIGNATURE_BYTES]

    def agree(self, aud_key: str) -> bytes:
        """Return the shared secret of the holder and an audience.  SPEC 16.3.

        Args:
            aud_key: The audience's X25519 public key, 43 characters.

        Raises:
            AttenuationError: The key is invalid, such as a point of small order.
        """
        nacl = _nacl()
        secret = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret)
        try:
            common: bytes = nacl.bindings.crypto_scalarmult(secret, wire.bytes_of(aud_key))
        except (nacl.exceptions.CryptoError, MalformedTokenError) as error:
            raise AttenuationError("this token names no key of its service; ask who gave it to you") from error
        return common

    def __repr__(self) -> str:
        return f"<HolderKey {self.public}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a HolderKey is a secret and is not pickled")


def check_public(public: str) -> str:
    """Return a holder's public key.

    Args:
        public: 43 characters.

    Raises:
        AttenuationError: It has not the form of an Ed25519 public key.
    """
    # Whether it is a point costs more than the signature of the delegation.  If not, no holder has its private half.
    try:
        if len(wire.bytes_of(public)) == PUBLIC_BYTES:
            return public
    except (MalformedTokenError, TypeError, AttributeError):
        pass
    text = "a holder's key is an Ed25519 public key, 43 characters of base64url"
    raise AttenuationError(text, hint="give what `arx key create-holder FILE` or `arx key show FILE` prints")


def is_point(public: str) -> bool:
    """Return whether a holder's public key can have a private half: a point of the group of prime order.  SPEC 16.1.

    Args:
        public: ``check_public`` returned it.
    """
    valid: bool = _nacl().bindings.crypto_core_ed25519_is_valid_point(wire.bytes_of(public))
    return valid


class SignedHop(NamedTuple):
    """The holder's part of a delegation's caveat, cut out of it.

    Attributes:
        hop: The name of the delegation, 12 characters.
        key: The next holder's key, 43 characters.
        signature: The current holder's signature, 64 bytes.
        unsigned: The caveat without ``sig``, which the signature covers.
    """

    hop: bytes
    key: str
    signature: bytes
    unsigned: bytes


def plain_hop(packet: bytes) -> bytes | None:
    """Return the name of a delegation that has no ``key``, 12 characters; None if a caveat is no delegation."""
    _, mark, end = packet.rpartition(_HOP_MARK)
    if not mark or b"{" in end or end.find(b"}") != len(end) - 1 or _TO not in end:
        return None
    return end[:12]


def unbound(packet: bytes) -> tuple[bytes, SignedHop | None]:
    """Cut ``key`` and ``sig`` out of a bound delegation's caveat.

    Args:
        packet: The caveat's bytes as received.

    Returns:
        The same delegation as a bearer token has it, and what was cut out.  The caveat as it is and None, if it is no
        delegation with both members in their places.
    """
    start, mark, end = packet.rpartition(_HOP_MARK)
    found = _SIGNED.fullmatch(end)
    if found is None:
        return packet, None
    hop, key, before, sig, after = found.groups()
    # The members are in order only if those around ``sig`` are: the rest is compared when the caveat is decoded.
    if (before or not after.startswith(_TO)) and not (
        all(name < b"sig" for name in _NAMES.findall(before)) and all(name > b"sig" for name in _NAMES.findall(after))
    ):
        return packet, None
    try:
        signature = wire.bytes_of(sig)
        wire.bytes_of(key)  # no quote is in it, and no member behind one
    except MalformedTokenError:
        return packet, None
    head, rest = start + mark, before + after
    return head + hop + b'"' + rest, SignedHop(hop, key.decode(), signature, head + end[_UNSIGNED] + rest)
