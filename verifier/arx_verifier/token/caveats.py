# SPDX-License-Identifier: Apache-2.0
"""What a first-party caveat can say: every member restricts.  SPEC 6.

``Caveat`` is one canonical JSON object; ``read_caveat`` accepts exactly that form.  What a member prohibits is applied
in ``chain_state``, once a chain is proven.  A member that is not listed here prohibits everything: an old verifier must
not ignore a restriction that a newer holder added.
"""

import ipaddress
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
from msgspec import Meta

import arx_verifier.jcs as jcs
import arx_verifier.names as names
import arx_verifier.token.wire as wire
from arx_verifier.constraints import Rule, WireRule, Written, compile_rule
from arx_verifier.errors import MalformedTokenError, UnknownCaveatError

MAX_INTEGER: Final = 2**53 - 1
MAX_HOPS: Final = 16
MAX_FRESH_MS: Final = 60_000  # above any lease: a larger number would promise what the lease already keeps
PROOFS: Final = ("call", "holder")
RESERVED: Final = ("key", "sig", "spend")  # bound tokens and budgets; refused as unknown in this version

_T = TypeVar("_T")

Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Path = Annotated[str, Meta(min_length=1, max_length=64)]
Pattern = Annotated[str, Meta(min_length=1, max_length=96)]
Audience = Annotated[str, Meta(min_length=1, max_length=64)]
OF_HOLDERS: Final = Meta(extra={"of": "holders"})  # marks a member about a token's holders, which no discharge has
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]


class _Members(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every member of a caveat but ``allow``; see there."""

    aud: Annotated[tuple[Audience, ...], Meta(min_length=1)] | None = None
    call: Annotated[tuple[str, Natural, str] | None, OF_HOLDERS] = None
    depth: Annotated[Annotated[int, Meta(ge=0, le=MAX_HOPS)] | None, OF_HOLDERS] = None
    exp: Natural | None = None
    fresh: Annotated[int, Meta(ge=0, le=MAX_FRESH_MS)] | None = None
    delegate_to: Annotated[Annotated[tuple[Pattern, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    hop: Annotated[Annotated[str, Meta(min_length=12, max_length=12)] | None, OF_HOLDERS] = None
    nbf: Natural | None = None
    net: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    once: tuple[Name, Natural] | None = None
    require: Annotated[Annotated[tuple[str, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    task: Name | None = None
    to: Annotated[Path | None, OF_HOLDERS] = None

    def check_operands(self) -> Self:
        """Check all but ``allow`` and ``hop``: rules are checked where they are compiled, hops where they are read."""
        if (self.to is None) != (self.hop is None):
            raise MalformedTokenError("`to` and `hop` come together")
        if self.to is not None and not names.is_agent_path(self.to):
            raise MalformedTokenError("`to` is an agent path such as acme/worker")
        for pattern in self.delegate_to or ():
            if not names.is_path_pattern(pattern):
                raise MalformedTokenError("`delegate_to` holds patterns such as acme/* or acme/**")
        for network in self.net or ():
            read_network(network)
        for proof in self.require or ():
            if proof not in PROOFS:
                raise UnknownCaveatError(f"`require` names a proof that this version does not know: {proof[:20]!r}")
        return self


class Caveat(_Members, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Restrictions that all hold together.  Every member may only take away.

    Attributes:
        allow: The tool and its arguments must match one of these rules.
        aud: The verifier's audience must be one of these.
        call: Digest, time and nonce of the one call this token is for; alone and last.
        depth: How many delegations may follow.
        exp: End of validity, ms since the Unix epoch, exclusive.
        fresh: The verifier's view of the kill epoch must be younger than this many ms; 0: asked for after the request.
        delegate_to: Whoever a later delegation names must match one of these path patterns.
        hop: 9 random bytes, base64url; with ``to``.
        nbf: Start of validity, ms since the Unix epoch, inclusive.
        net: The peer's address must be in one of these networks (CIDR).
        once: A name, and when it was given, ms since the Unix epoch: one call of the task may have this name.
        require: A caveat with this proof (``call``) must follow.
        task: A sub-task whose end also ends this token.
        to: The agent that this token was delegated to; with ``hop``.

    Raises:
        AttenuationError: No member, or one that SPEC 6 does not allow.
    """

    allow: Annotated[tuple[Rule, ...], Meta(min_length=1)] | None = None

    def encode(self) -> bytes:
        """Return the canonical JSON.

        Raises:
            MalformedTokenError: The caveat says nothing, or something that no verifier would accept.
        """
        raw = jcs.encode(self)
        if len(raw) == 2:  # b"{}"
            raise MalformedTokenError("an empty caveat restricts nothing and is refused")
        return raw

    def delegated_to(self, to: str, hop: str) -> Self:
        """Return the same restrictions as a delegation to ``to`` with the link name ``hop``."""
        return msgspec.structs.replace(self, to=to, hop=hop)

    def check_written(self) -> None:
        """Refuse what ``check`` refuses and a caveat without a member, and keep nothing."""
        if count_members(self) == 0:
            raise MalformedTokenError("an empty caveat restricts nothing and is refused")
        for rule in self.allow or ():
            rule.check_written()
        if self.hop is not None:
            canonical_hop(self.hop)
        self.check_operands()

    def check(self) -> Self:
        """Check what the types cannot say; a holder does so before it delegates what every verifier would refuse.

        Returns:
            The caveat itself.

        Raises:
            MalformedTokenError: A member's value breaks SPEC 6.
            UnknownCaveatError: ``require`` names an unknown proof.
        """
        for rule in self.allow or ():
            compile_rule(rule)
        if self.hop is not None:
            canonical_hop(self.hop)
        return self.check_operands()


class WireCaveat(_Members, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A proven caveat as it stands in a token: the constraints of its rules are compiled from their bytes."""

    allow: Annotated[tuple[WireRule, ...], Meta(min_length=1)] | None = None


def count_members(caveat: _Members) -> int:
    """Count the members that a caveat has."""
    values = msgspec.structs.astuple(caveat)
    return len(values) - values.count(None)


KNOWN: Final = frozenset(Caveat.__struct_fields__)
ABOUT_HOLDERS: Final = tuple(
    [name for name, kind in _Members.__annotations__.items() if OF_HOLDERS in getattr(kind, "__metadata__", ())]
)
_CAVEAT: Final = msgspec.json.Decoder(Caveat)
_WIRE: Final = msgspec.json.Decoder(WireCaveat)


def read_caveat(raw: bytes) -> Caveat:
    """Read one caveat whole, for a person or a holder.

    Args:
        raw: The caveat's bytes as received.

    Returns:
        The caveat, its operands checked.

    Raises:
        UnknownCaveatError: It has a member that this version does not know.
        MalformedTokenError: It is empty, not canonical JSON, or a member's value is wrong.
    """
    return _read(_CAVEAT, raw).check()


def read_proven(raw: bytes) -> WireCaveat:
    """Read one proven caveat, its rules not compiled yet; see ``read_caveat``.

    Raises:
        UnknownCaveatError: As ``read_caveat``.
        MalformedTokenError: As ``read_caveat``, but for what stands inside ``allow`` and ``hop``.
    """
    return _read(_WIRE, raw).check_operands()


def _read(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T:
    caveat = jcs.decode(decoder, raw, _unknown)
    if len(raw) == 2:
        raise MalformedTokenError("an empty caveat restricts nothing and is refused")
    return caveat


def _unknown(raw: bytes) -> UnknownCaveatError | None:
    """Name the unknown members of a caveat that could not be read; shortened, because a stranger wrote them."""
    try:
        value: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    unknown = sorted(value.keys() - KNOWN)[:4] if isinstance(value, dict) else ()
    if not unknown:
        return None
    return UnknownCaveatError(f"this version does not know the caveat {', '.join([ascii(n)[:24] for n in unknown])}")


def read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read one network in CIDR form.

    Raises:
        MalformedTokenError: It is not one in its one form, or has bits beyond its prefix.
    """
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise MalformedTokenError(f"`net` holds networks such as 10.0.0.0/8, not {text[:40]!r}") from error
    if str(network) != text:  # a mask, a host mask, no prefix: what another reader may take for another network
        raise MalformedTokenError(f"`net` holds networks in their one form, such as {network}")
    return network


def canonical_hop(text: str) -> bytes:
    """Read a hop's 9 bytes from its 12 characters (9 bytes fill them exactly, so there is one spelling)."""
    return wire.bytes_of(text)
