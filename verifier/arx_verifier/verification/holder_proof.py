# SPDX-License-Identifier: Apache-2.0
"""Judge the holders of a bound token: each delegation's signature, and the proof of each call.  SPEC 16.

The signatures are checked once for each chain that is cached; a call costs one HMAC more than that of a bearer token.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from arx_verifier.errors import Failure
from arx_verifier.journal.record import ProvenHolder, SignedCall
from arx_verifier.token import call_proof, chain, holder
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import PreparedKey
from arx_verifier.token.macaroon import Identifier
from arx_verifier.token.wire import ThirdPartyPacket, bytes_of
from arx_verifier.verification.reasons import PLACES, Refused

_INVALID: Final = Refused(
    "proof_invalid", (Failure("call", "holder", "a proof by the key that the token is bound to", "another one"),)
)
UNVOUCHED: Final = Refused(
    "malformed", (Failure("identifier", "vouched", "the delegations that the mint vouches for", "fewer"),)
)
NOT_BOUND: Final = Refused(
    "malformed", (Failure("call", "holder", "no holder's proof: this is a bearer token", "one"),)
)


class BoundPackets(NamedTuple):
    """A bound token's caveats, as those of a bearer token, and what its holders signed.

    Attributes:
        plain: The caveats; delegations without ``key`` and ``sig``.
        signed: The holders' part of each of them, or None.
    """

    plain: tuple[bytes | ThirdPartyPacket, ...]
    signed: tuple[holder.SignedHop | None, ...]

    @classmethod
    def read(cls, packets: Sequence[bytes | ThirdPartyPacket]) -> "BoundPackets":
        """Cut the holders' parts out of a token's caveats."""
        parts = [holder.unbound(packet) if isinstance(packet, bytes) else (packet, None) for packet in packets]
        return cls(tuple([plain for plain, _ in parts]), tuple([signed for _, signed in parts]))


class Holders(NamedTuple):
    """The proven holders of a bound chain, and why the chain ends there.

    Attributes:
        holders: For the record: the first holder's key, and each next holder's with the delegation that is its proof.
        refused: The refusal of every call, or None.
    """

    holders: tuple[ProvenHolder, ...]
    refused: Refused | None

    @property
    def key(self) -> str:
        """The last holder's key, 43 characters."""
        return self.holders[-1].key


def prove_holders(
    identifier: Identifier,
    realm: str,
    signatures: Sequence[bytes],
    bound: BoundPackets,
    hops: Sequence[tuple[int, str, str]],
) -> Holders:
    """Check the signature of each delegation, in order.

    Args:
        identifier: The authenticated identifier of a bound token.
        realm: The realm's name.
        signatures: The chain's signature before each of the token's caveats.
        bound: The authenticated caveats, read.
        hops: Each delegation that no caveat refused: its index, its ``to`` and its link.

    Returns:
        The holders up to the first delegation that its holder has not signed.  Those that the mint vouches for have no
        key: the holder after them is the one that the identifier names.
    """
    first = identifier.holder
    assert first is not None
    found = [ProvenHolder(first)]
    vouched = identifier.vouched or 0
    for index, _, _ in hops[:vouched]:
        if bound.signed[index] is not None:
            return Holders(tuple(found), _signed(index))
    for index, to, link in hops[vouched:]:
        signed = bound.signed[index]
        if signed is None:
            return Holders(tuple(found), _unsigned(index))
        said = holder.hop_digest(signatures[index], signed.unsigned)
        message = holder.hop_message(realm, identifier.aud, link, to, signed.key, said)
        if not holder.has_signed(found[-1].key, message, signed.signature):
            return Holders(tuple(found), _forged(index))
        found.append(ProvenHolder(signed.key, said, signed.signature))
    return Holders(tuple(found), None)


def _unsigned(index: int) -> Refused:
    failure = Failure(PLACES[index + 1], "sig", "the next holder's key and its delegator's signature", "neither")
    return Refused("malformed", (failure,))


def _signed(index: int) -> Refused:
    failure = Failure(PLACES[index + 1], "sig", "neither `key` nor `sig`: the mint vouches for it", "both")
    return Refused("malformed", (failure,))


def _forged(index: int) -> Refused:
    failure = Failure(PLACES[index + 1], "sig", "the signature of the holder before", "another one")
    return Refused("bad_signature", (failure,))


class HolderProof:
    """Checks the calls of one bound chain.

    Args:
        key: The audience key.
        realm: The realm's name.
        audience: The audience.
        holder: The last holder's key, 43 characters.
        link: The last link.
        signature: The chain's last signature, a secret.
    """

    __slots__ = ("_audience", "_call_key", "_holder", "_key", "_link", "_realm", "_signature")

    def __init__(self, key: PreparedKey, realm: str, audience: str, holder: str, link: str, signature: bytes) -> None:
        self._key, self._realm, self._audience = key, realm, audience
        self._holder, self._link, self._signature = holder, link, signature
        self._call_key: bytes | None = None

    def judge(self, call: PresentedCall, needs_signature: bool) -> Refused | None:
        """Refuse a call that the last holder has not made.

        Args:
            call: The authenticated call.
            needs_signature: Whether the chain requires a signature of the call.
        """
        proof = call.proof
        if needs_signature and len(proof) != call_proof.SIGNATURE_CHARS:
            return _missing("signature", "the holder's signature of the call")
        if len(proof) == call_proof.MAC_CHARS:
            return self._judge_mac(call, proof)
        if len(proof) == call_proof.SIGNATURE_CHARS:
            said = sha256(self._signature).digest()
            message = holder.call_message(self._realm, self._audience, self._link, said, call.plain)
            return None if holder.has_signed(self._holder, message, bytes_of(proof)) else _INVALID
        return _missing("holder", "a proof by the holder's key")

    def evidence_of(self, call: PresentedCall) -> SignedCall | None:
        """Return the evidence of a call that was not refused; None if its holder has not signed it."""
        proof = call.proof
        if len(proof) != call_proof.SIGNATURE_CHARS:
            return None
        return SignedCall(sha256(self._signature).digest(), call.plain, bytes_of(proof))

    def _judge_mac(self, call: PresentedCall, proof: bytes) -> Refused | None:
        key = self._call_key
        if key is None:
            common = self._key.agree(self._holder)
            if common is None:
                return _INVALID
            self._call_key = key = holder.call_key(common, self._signature, self._audience)
        # In constant time: who knows the text could else find the proof by its timing.
        return None if chain.equal(holder.mac_of(key, call.plain), proof) else _INVALID


def _missing(rule: str, expected: str) -> Refused:
    return Refused("proof_missing", (Failure("call", rule, expected, "none"),))
