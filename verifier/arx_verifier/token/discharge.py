# SPDX-License-Identifier: Apache-2.0
"""Third-party caveats and discharges: require, issue, bind and send.  SPEC 6.4.

For the mint, approvers and holders; every function works offline.  The bytes are those of libmacaroons, so any macaroon
library can verify them.  ``verification.authenticate`` verifies presented discharges.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

import arx_verifier.jcs as jcs
import arx_verifier.names as names
import arx_verifier.token.chain as chain
import arx_verifier.token.wire as wire
from arx_verifier.errors import ArxError, AttenuationError, MalformedTokenError, UnknownCaveatError
from arx_verifier.token.caveats import ABOUT_HOLDERS, Caveat, MarkNames, Natural
from arx_verifier.token.macaroon import Macaroon

MAX_DISCHARGES: Final = 8  # each costs a box to open and a chain to fold
MAX_ID_CHARS: Final = 160  # a key id, a colon and a task's name, with room
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
SEALED_BYTES: Final = NONCE_BYTES + 16 + KEY_BYTES  # nonce, tag, caveat key

_SEAL: Final = b"arx/1/seal"
_KEY_LABEL: Final = b"arx/1/discharge/"
_BINDING_KEY: Final = bytes(32)


class ThirdPartyCaveat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The identifier of a third-party caveat and of the discharge that answers it.  SPEC 6.4.

    Attributes:
        id: The approver's name of what must be approved, 1 to 160 characters.
        tools: Calls of these tools, or patterns of them, need the discharge; None: every call.
        when: Lists of marks: only while all of a list are set, calls need it; None: always.  SPEC 21.8.
        opened: When the session of these marks was opened, ms since the Unix epoch; with ``when``.
    """

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    tools: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    when: Annotated[tuple[MarkNames, ...], Meta(min_length=1)] | None = None
    opened: Natural | None = None

    def encode(self) -> bytes:
        """Return the canonical JSON.  SPEC 3.

        Raises:
            UnknownCaveatError: It has a value that no verifier accepts.
        """
        raw = jcs.encode(self)
        self.read(raw)
        return raw

    @classmethod
    def read(cls, raw: bytes) -> "ThirdPartyCaveat":
        """Parse the identifier of a third-party caveat, or of a discharge.

        Args:
            raw: The identifier's bytes as received.

        Raises:
            UnknownCaveatError: It is not a third-party caveat in canonical form, so what it requires is unknown.
        """
        try:
            found = jcs.decode(_THIRD_PARTY, raw)
        except MalformedTokenError as error:
            raise UnknownCaveatError(
                f"a third-party caveat of a kind that this version does not know: {error}"
            ) from None
        if not all(map(names.is_tool_pattern, found.tools or ())):
            raise UnknownCaveatError("`tools` of a third-party caveat holds tools, such as orders.get or orders.*")
        if (found.when is None) != (found.opened is None):
            raise UnknownCaveatError("`when` and `opened` of a third-party caveat come together")
        return found

    def binds(self, tool: str) -> bool:
        """Return whether a call of this tool needs the discharge, or may need it where there is ``when``."""
        return self.tools is None or any(names.matches_tool(pattern, tool) for pattern in self.tools)


_THIRD_PARTY: Final = msgspec.json.Decoder(ThirdPartyCaveat)


def require_discharge(macaroon: Macaroon, third_party: bytes, key: bytes, location: bytes | None = None) -> Macaroon:
    """Return a token, or a discharge, with one more third-party caveat.

    Args:
        macaroon: The token or the discharge to attenuate; a discharge must not be bound yet.
        third_party: The result of ``ThirdPartyCaveat.encode``.
        key: The caveat key, 32 bytes; every party that knows it can issue the discharge.
        location: Where to ask for the discharge, a hint.

    Raises:
        UnknownCaveatError: *third_party* is not a third-party caveat.
        AttenuationError: This is a one-shot token, or the result would be too large.
    """
    ThirdPartyCaveat.read(third_party)
    if macaroon.is_one_shot:
        raise AttenuationError("a one-shot token carries its call; attenuate the task's token instead")
    body, signature = macaroon.parts()
    sealed = seal(signature, _derived(key), third_party)
    body += wire.caveat_packet(wire.ThirdPartyPacket(location, third_party, sealed))
    return _made(body, chain.extend_third_party(signature, sealed, third_party))


def issue_discharge(third_party: bytes, key: bytes, *, realm: str, caveats: tuple[Caveat, ...] = ()) -> Macaroon:
    """Return the discharge of a third-party caveat.  It is a secret; a verifier accepts it only after ``bind``.

    Args:
        third_party: The identifier of the caveat that it answers, byte for byte.
        key: The caveat key, 32 bytes.
        realm: The realm's name.
        caveats: Restrictions of each call that it is sent with.

    Raises:
        UnknownCaveatError: *third_party* is not a third-party caveat.
        MalformedTokenError: A caveat has a member about a token's holders.
    """
    ThirdPartyCaveat.read(third_party)
    for caveat in caveats:
        # Those members describe the delegations of the token.  In a discharge, the approver would rewrite them.
        if any(getattr(caveat, name) is not None for name in ABOUT_HOLDERS):
            raise MalformedTokenError(f"a discharge says nothing of {', '.join(ABOUT_HOLDERS)}")
    head = wire.packet(wire.LOCATION, realm.encode("ascii")) + wire.packet(wire.IDENTIFIER, third_party)
    made = _made(b"\x02" + head + b"\0", chain.extend(_derived(key), third_party))
    return made.attenuate(*caveats) if caveats else made


def bind(made: Macaroon, parent: Macaroon) -> Macaroon:
    """Return a discharge bound to one token: no other token, attenuated or not, can present it.

    Args:
        made: The discharge, unbound.
        parent: The task's token that calls are signed with.

    Raises:
        AttenuationError: *parent* is a one-shot token.
    """
    if parent.is_one_shot:
        raise AttenuationError("bind a discharge to the task's token, not to the token of one call")
    body, signature = made.parts()
    return Macaroon(body, binding(parent.parts()[1], signature))


def join(token: str, bound: Sequence[Macaroon]) -> str:
    """Return the credential to send: a token and the discharges that are bound to it.  SPEC 6.7.

    Args:
        token: The token's text, one-shot or not.
        bound: Discharges, at most 8, including those of nested caveats.

    Raises:
        AttenuationError: More than 8 discharges, or more than 7 168 characters.
    """
    if len(bound) > MAX_DISCHARGES:
        raise AttenuationError(f"a credential has at most {MAX_DISCHARGES} discharges, not {len(bound)}")
    text = wire.JOINT.join([token, *[each.encode() for each in bound]])
    if len(text) > wire.MAX_CREDENTIAL_CHARS:
        raise AttenuationError(
            f"token and discharges have {len(text)} characters; the limit is {wire.MAX_CREDENTIAL_CHARS}: send only "
            "the discharge of this call, and restate less at each delegation"
        )
    return text


def third_party_caveats(macaroon: Macaroon) -> tuple[ThirdPartyCaveat, ...]:
    """Return the third-party caveats of a token, unverified, for its holder.

    Args:
        macaroon: The token.

    Raises:
        UnknownCaveatError: One is of a kind that this version does not know; every verifier refuses such a token.
    """
    return tuple(
        ThirdPartyCaveat.read(packet.identifier)
        for packet in macaroon.packets
        if isinstance(packet, wire.ThirdPartyPacket)
    )


def caveat_key(audience_key: bytes, name: str) -> bytes:
    """Return the key of a third-party caveat, derived from its id and the audience key.  SPEC 6.5.

    Args:
        audience_key: 32 bytes.
        name: The third-party caveat's ``id``.

    Returns:
        HKDF-SHA256 (no salt) of 32 bytes.
    """
    # Derived and not drawn: the mint then stores no key for each caveat.
    return chain.hkdf(audience_key, _KEY_LABEL + name.encode("utf-8"))


def binding(parent: bytes, made: bytes) -> bytes:
    """Return a discharge's signature, bound to that of a token, as libmacaroons binds it.

    Args:
        parent: The token's signature before its call.
        made: The discharge's signature, unbound.

    Returns:
        The 32 bytes that the discharge is presented with.
    """
    return chain.extend(_BINDING_KEY, chain.extend(_BINDING_KEY, parent) + chain.extend(_BINDING_KEY, made))


def seal(signature: bytes, derived_key: bytes, third_party: bytes) -> bytes:
    """Return the verification id of a third-party caveat: nonce and sealed caveat key (XSalsa20-Poly1305).

    Args:
        signature: The 32 bytes before the caveat.
        derived_key: The caveat key, passed through the key generator.
        third_party: The caveat's identifier.
    """
    from nacl.bindings import crypto_secretbox  # slow to import, and only approvals need it

    # Derived and not random: an idempotent retry that signs the token again returns the same bytes.  Two messages under
    # one signature never share a nonce, because the nonce depends on everything that can differ.
    nonce = chain.extend(signature, _SEAL + derived_key + third_party)[:NONCE_BYTES]
    return nonce + crypto_secretbox(derived_key, nonce, signature)


def unseal(signature: bytes, verification_id: bytes) -> bytes | None:
    """Return the caveat key that a verification id seals.

    Args:
        signature: The 32 bytes before the caveat.
        verification_id: The caveat's verification id.

    Returns:
        The derived caveat key, 32 bytes; None if it was sealed under another signature or is malformed.
    """
    from nacl.bindings import crypto_secretbox_open
    from nacl.exceptions import CryptoError

    if len(verification_id) != SEALED_BYTES:
        return None
    try:
        return crypto_secretbox_open(verification_id[NONCE_BYTES:], verification_id[:NONCE_BYTES], signature)
    except CryptoError:
        return None


def _derived(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a caveat key has {KEY_BYTES} bytes")
    return chain.derive(key)


def _made(body: bytes, signature: bytes) -> Macaroon:
    try:
        made = Macaroon(body, signature)
        if len(made.encode()) > wire.MAX_CREDENTIAL_CHARS:
            raise MalformedTokenError(f"it would have more than {wire.MAX_CREDENTIAL_CHARS} characters")
    except ArxError as error:
        raise AttenuationError(f"this would be too large: {error}") from error
    return made
