# SPDX-License-Identifier: Apache-2.0
"""Tokens as holders use them: parse, attenuate and delegate, offline.  SPEC 2 to 5.

Nothing here verifies: the content of a ``Macaroon`` is ``unverified_…`` until a ``Verifier`` has allowed a call.  This
module interprets no caveat, so a holder can delegate a token with caveats that it does not understand.
"""

import os
from typing import Annotated, Final, NamedTuple, Protocol, Self

import msgspec
from msgspec import Meta

import arx_verifier.jcs as jcs
import arx_verifier.token.chain as chain
import arx_verifier.token.holder as holder
import arx_verifier.token.wire as wire
from arx_verifier.errors import AttenuationError, MalformedTokenError
from arx_verifier.token.holder import HolderKey

MAX_INTEGER: Final = 2**53 - 1  # the largest integer that every JSON parser returns exactly
MAX_HOPS: Final = 16  # each delegation adds targets to every check
ID_BYTES: Final = 16
HOP_BYTES: Final = 9  # 72 random bits name a delegation; two equal ones only die together
IAT_AHEAD_MS: Final = 60_000  # the mint's clock and a verifier's may each be 30 s off the store's (SPEC 10.5)
MINT_AUDIENCE: Final = "arx.mint"
_ENDING_BYTES: Final = len(wire.TAIL) + wire.SIGNATURE_BYTES
_PREFIX_CHARS: Final = len(wire.TOKEN_PREFIX)
_AROUND_CHARS: Final = _PREFIX_CHARS + 1
CALL_MARK: Final = b'{"call":['  # the beginning of a call caveat, which no other caveat may follow

Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Name = Annotated[str, Meta(min_length=1, max_length=96)]
PublicKey = Annotated[str, Meta(min_length=43, max_length=43)]  # who uses one decodes it; a pattern costs 0.4 us
ABOUT: Final = ("version", "owner", "purpose")  # the texts of ``meta``, in its order
MAX_ABOUT_CHARS: Final = 64  # of each text: a token travels with every call
About = Annotated[str, Meta(max_length=MAX_ABOUT_CHARS)]


class Identifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token's agent and its outer limits, set by the mint alone.  SPEC 4.

    Attributes:
        agent: The agent's path.
        aud: The one service that accepts this token.
        born: Incarnation and sequence of the realm's kill epoch, read before the agent's authority was checked.
        depth: How many delegations may follow.
        exp: End of validity, ms since the Unix epoch, exclusive.
        iat: Time of minting, ms since the Unix epoch.
        id: 16 random bytes, base64url: the first link.
        kid: The id of the audience key that signed this token.
        session: The session's id.
        aud_key: The audience's X25519 public key, 43 characters; with ``holder``.
        holder: The key of a bound token's first holder, an Ed25519 public key of 43 characters; None: a bearer token.
        meta: Further texts of the agent's enrolment, in the order of ``ABOUT``; empty or omitted if not enrolled.
        model: The agent's model, as enrolled.
        policy: Digest of the policy that granted it.
        subject: Issuer and subject on whose behalf the session runs.
        task: The task's id; only a token for the mint has none.
        v: 1.
        vouched: How many of a bound token's first delegations the mint has proven and written itself; None for none.
    """

    agent: Name
    aud: Name
    aud_key: PublicKey | None = None
    born: tuple[Name, Natural]
    depth: Annotated[int, Meta(ge=0, le=MAX_HOPS)]
    exp: Natural
    holder: PublicKey | None = None
    iat: Natural
    id: Annotated[str, Meta(min_length=22, max_length=22)]
    kid: Name
    meta: Annotated[tuple[About, ...], Meta(min_length=1, max_length=3)] | None = None
    model: Name | None = None
    policy: Name | None = None
    session: Name
    subject: tuple[Annotated[str, Meta(max_length=512)], Annotated[str, Meta(max_length=512)]] | None = None
    task: Name | None = None
    v: Annotated[int, Meta(ge=1, le=1)]
    vouched: Annotated[int, Meta(ge=1, le=MAX_HOPS)] | None = None


def about(identifier: Identifier) -> tuple[tuple[str, str], ...]:
    """Return the texts of ``meta`` that are not empty, each with its name."""
    return tuple((name, said) for name, said in zip(ABOUT, identifier.meta or (), strict=False) if said)


class OperatorIdentifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The identifier of an operator's token for the mint.  SPEC 4.3."""

    # No session and no `born`: a kill of the realm must not lock the operators out.
    aud: Name
    exp: Natural
    iat: Natural
    id: Annotated[str, Meta(min_length=22, max_length=22)]
    kid: Name
    operator: Name
    v: Annotated[int, Meta(ge=1, le=1)]


_IDENTIFIER: Final = msgspec.json.Decoder(Identifier)
_OPERATOR: Final = msgspec.json.Decoder(OperatorIdentifier)


class CaveatLike(Protocol):
    """The part of a caveat that ``Macaroon`` uses: its bytes, and the same restrictions as a delegation."""

    def encode(self) -> bytes:
        """Return the caveat's canonical JSON."""

    def delegated_to(self, to: str, hop: str, key: str | None = None, sig: str | None = None) -> "CaveatLike":
        """Return the same restrictions as a delegation to ``to``, with the link name ``hop``; see ``Caveat``."""


class BoundTo(NamedTuple):
    """Whom a bound token belongs to, unverified.  SPEC 16.2.

    Attributes:
        audience: The service that accepts it.
        aud_key: The service's X25519 public key, 43 characters.
        holder: The current holder's Ed25519 public key, 43 characters.
        link: The last link.
    """

    audience: str
    aud_key: str
    holder: str
    link: str


class Macaroon:
    """A token.  Immutable; ``repr`` shows no secret.

    Build one with ``parse`` or, in the mint, ``mint``; attenuate it with ``attenuate`` and ``delegate``.
    """

    __slots__ = ("_body", "_head", "_signature", "identifier", "location", "packets")

    location: str
    identifier: bytes
    packets: tuple[bytes | wire.ThirdPartyPacket, ...]

    def __init__(self, body: bytes, signature: bytes, head: str = "") -> None:
        """Parse the parts of a macaroon.

        Args:
            body: Everything before the end marker of the caveats.
            signature: The 32 bytes at its end.
            head: The base64url text of the body's first bytes, if known.  A delegation appends, so it reuses the text.

        Raises:
            MalformedTokenError: The bytes break SPEC 2.
        """
        location, self.identifier, self.packets = wire.walk(body)
        try:
            self.location = (location or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedTokenError("a macaroon's location is not UTF-8") from error
        self._body = body
        self._head = head
        self._signature = signature

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a token's text form.  SPEC 2.3.

        Args:
            text: ``arx1_…``, at most 7 168 characters.

        Returns:
            The macaroon, unverified.

        Raises:
            MalformedTokenError: The text is not a macaroon in canonical form.
        """
        body, signature = wire.read_text(text)
        return cls(body, signature, text[_PREFIX_CHARS : _PREFIX_CHARS + len(body) // 3 * 4])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse a token's binary form (macaroon version 2).  SPEC 2.

        Args:
            raw: The whole macaroon and nothing else.

        Raises:
            MalformedTokenError: The bytes are not a macaroon in canonical form.
        """
        return cls(*wire.split_body(raw))

    @classmethod
    def mint(
        cls,
        identifier: Identifier | OperatorIdentifier,
        *,
        key: bytes,
        realm: str,
        caveats: tuple[CaveatLike, ...] = (),
    ) -> Self:
        """Return a root macaroon.  The mint calls this: it needs the audience key.

        Args:
            identifier: The agent and the outer limits.
            key: The audience key of ``identifier.kid``, 32 bytes.
            realm: The realm's name, written as the location.
            caveats: The mint's own restrictions; the first has ``allow``.

        Returns:
            The macaroon.
        """
        raw = jcs.encode(identifier)
        body = b"\x02" + wire.packet(wire.LOCATION, realm.encode("ascii")) + wire.packet(wire.IDENTIFIER, raw) + b"\0"
        root = cls(body, chain.extend(chain.derive(key), raw))
        return root.attenuate(*caveats) if caveats else root

    def encode(self) -> str:
        """Return the text form, ``arx1_…``.  It is a secret: it is all that a holder needs."""
        # The head is the text of the body's first bytes, in whole groups of four characters: only the rest is encoded.
        written = len(self._head) // 4 * 3
        rest = self._body[written:] + wire.TAIL + self._signature
        return wire.TOKEN_PREFIX + self._head + wire.base64_of(rest).decode("ascii")

    def to_bytes(self) -> bytes:
        """Return the binary form.  It is a secret."""
        return self._body + wire.TAIL + self._signature

    def attenuate(self, *caveats: CaveatLike) -> Self:
        """Return an attenuated token; this one stays as it is.  Offline, needs no key.  SPEC 6.

        Args:
            caveats: Restrictions that all calls of the new token must meet.

        Raises:
            AttenuationError: This is a one-shot token, or the result would be too large.
        """
        return self._extended(tuple([caveat.encode() for caveat in caveats]))

    def delegate(
        self,
        to: str,
        caveat: CaveatLike | None = None,
        *,
        hop: bytes | None = None,
        key: str | None = None,
        by: HolderKey | None = None,
    ) -> Self:
        """Return a token for another agent: named, attenuated and killable by its own link.  Offline.  SPEC 5.2.

        Args:
            to: The next holder's agent path.
            caveat: The restrictions of this delegation; None adds none.
            hop: 9 random bytes, shared by the macaroons of one bundle; None draws them.
            key: The next holder's public key, 43 characters; for a bound token, and only for one.
            by: The key of this token's holder, which signs the delegation of a bound token.  SPEC 16.2.

        Raises:
            AttenuationError: This is a one-shot token, the result would be too large, or a key is missing, is not one,
                is not the holder's, or is given for a bearer token.
        """
        hop_name = wire.text_of(os.urandom(HOP_BYTES) if hop is None else hop)
        bound = self.bound_to
        if bound is not None:
            raw = self._signed(bound, to, caveat, hop_name, key, by)
        elif key is not None:
            raise AttenuationError("a bearer token names no key of its holder; leave `key` out")
        elif caveat is None:
            raw = jcs.encode({"hop": hop_name, "to": to})
        else:
            raw = caveat.delegated_to(to, hop_name).encode()
        return self._extended((raw,))

    def _signed(
        self, bound: BoundTo, to: str, caveat: CaveatLike | None, hop: str, key: str | None, by: HolderKey | None
    ) -> bytes:
        """Return the caveat of a delegation, signed by this token's holder."""
        if key is None:
            raise AttenuationError(
                f"this token is bound to its holder's key, and {to:.80} has none: give `key`, its public key",
                hint=f"`arx key create-holder FILE` makes a key where {to:.80} runs, and prints its public half; a "
                'template with binding = "bearer" needs none',
            )
        if by is None or by.public != bound.holder:
            raise AttenuationError(
                f"only the holder of the key {bound.holder} can delegate this token, not the holder of "
                f"{'no key' if by is None else by.public}",
                hint="give the key that the token is bound to, or ask its giver to delegate it to yours",
            )
        unsigned = _written(caveat, to, hop, holder.check_public(key), None)
        link = chain.links_of(bound.link, (hop.encode("ascii"),))[0]
        said = holder.hop_digest(self._signature, unsigned)
        message = holder.hop_message(self.location, bound.audience, link, to, key, said)
        return _written(caveat, to, hop, key, wire.text_of(by.sign(message)))

    @property
    def bound_to(self) -> BoundTo | None:
        """The key that this token is bound to, unverified; None for a bearer token.

        Raises:
            MalformedTokenError: It is not an ARx token.
        """
        if b',"holder":"' not in self.identifier:  # in a text its quotes would be escaped
            return None
        identifier = read_identifier(self.identifier)
        if not isinstance(identifier, Identifier) or identifier.holder is None:
            return None
        key, hops, vouched = identifier.holder, [], identifier.vouched or 0
        for packet in self.packets:
            signed = holder.unbound(packet)[1] if isinstance(packet, bytes) else None
            if signed is not None:
                key = signed.key
                hops.append(signed.hop)
            elif len(hops) < vouched and isinstance(packet, bytes) and (hop := holder.plain_hop(packet)):
                hops.append(hop)
        links = chain.links_of(identifier.id, hops)
        return BoundTo(identifier.aud, identifier.aud_key or "", key, links[-1] if links else identifier.id)

    def _extended(self, caveats: tuple[bytes, ...]) -> Self:
        packets = self.packets
        if packets and packets[-1].__class__ is bytes and packets[-1].startswith(CALL_MARK):
            raise AttenuationError("a one-shot token carries its call; attenuate the task's token instead")
        body, signature = self._body, self._signature
        for raw in caveats:
            body, signature = chain.appended(body, signature, raw)
        packets += caveats
        size = (len(body) + _ENDING_BYTES) * 4 // 3 + _AROUND_CHARS
        if len(packets) > wire.MAX_CAVEATS or size > wire.MAX_CREDENTIAL_CHARS:
            raise AttenuationError(
                f"the token would have {len(packets)} caveats and {size} characters; the limits are "
                f"{wire.MAX_CAVEATS} and {wire.MAX_CREDENTIAL_CHARS}: restate less at each delegation"
            )
        # Not through ``__init__``: it would parse again what was parsed when this token was read.
        attenuated = object.__new__(type(self))
        attenuated.location, attenuated.identifier, attenuated.packets = self.location, self.identifier, packets
        attenuated._body, attenuated._head, attenuated._signature = body, self._head, signature
        return attenuated

    @property
    def is_one_shot(self) -> bool:
        """Whether the last caveat is a ``call``, after which nothing may follow."""
        last = self.packets[-1] if self.packets else b""
        return isinstance(last, bytes) and last.startswith(CALL_MARK)

    @property
    def unverified_identifier(self) -> Identifier | OperatorIdentifier:
        """The identifier, not authenticated.

        Raises:
            MalformedTokenError: It is not an ARx identifier.
        """
        return read_identifier(self.identifier)

    def parts(self) -> tuple[bytes, bytes]:
        """Return body and signature, for code that signs calls.  The signature is a secret."""
        return self._body, self._signature

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Macaroon):
            return NotImplemented
        return self._body == other._body and chain.equal(self._signature, other._signature)

    def __hash__(self) -> int:
        return hash(self._body)

    def __repr__(self) -> str:
        return f"<Macaroon of {self.location!r}, {len(self.packets)} caveats>"

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled objects end up in caches and crash reports: a program that sends a token must call encode() itself.
        raise TypeError("a Macaroon is a secret and is not pickled; pass on its encode() where that is meant")


def _written(caveat: CaveatLike | None, to: str, hop: str, key: str, sig: str | None) -> bytes:
    if caveat is not None:
        return caveat.delegated_to(to, hop, key, sig).encode()
    said = {"hop": hop, "key": key, "to": to}
    return jcs.encode(said if sig is None else said | {"sig": sig})


def read_identifier(raw: bytes) -> Identifier | OperatorIdentifier:
    """Parse an identifier's bytes.  SPEC 4.

    Args:
        raw: Canonical JSON.

    Returns:
        An agent's identifier, or an operator's if it has the member ``operator``.

    Raises:
        MalformedTokenError: Not canonical, or neither of both.
    """
    try:
        identifier = _IDENTIFIER.decode(raw)
        if raw.isascii() and jcs.encode(identifier) == raw:  # nearly every one
            return identifier
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors; ``jcs.decode`` below raises the exact one
        pass
    if b'"operator":' in raw and b'"agent":' not in raw:
        return jcs.decode(_OPERATOR, raw)
    return jcs.decode(_IDENTIFIER, raw)
