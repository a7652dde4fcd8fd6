# SPDX-License-Identifier: Apache-2.0
"""What a held token says of itself, read without a key.  SPEC 4 to 7.

Nothing here is proven: a holder reads its own token to explain it, and to notice a mistake before a service does.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.names import matches_tool
from arx_verifier.token import chain, wire
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.keyring import KEY_BYTES, PreparedKey
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.chain_state import ProvenChain


class _Glimpse(msgspec.Struct, frozen=True):
    """The members of a caveat that a holder looks at; others are left alone."""

    allow: msgspec.Raw = msgspec.Raw(b"")
    depth: int | None = None
    exp: int | None = None
    delegate_to: tuple[str, ...] = ()
    hop: str | None = None
    require: tuple[str, ...] = ()
    to: str | None = None


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A token's limits as its caveats write them.

    Attributes:
        identifier: What the mint wrote.
        named: The agents it was delegated to, in order.
        links: The names of its links, the mint's first; a kill of the last one ends it.
        depth: How many delegations may follow.
        exp: The earliest end, ms since the Unix epoch.
        delegate_to: Each list of patterns that a next holder must match.
        groups: Each ``allow``; one rule of every group must match a call.
        needs_call: Whether each call must be signed.
        needs_signature: Whether each call must be signed so that others can check it.
        holder: The key that the token is bound to now, 43 characters; None for a bearer token.
        requires: What has to be answered by an approval, or by another discharge.
    """

    identifier: Identifier
    named: tuple[str, ...]
    links: tuple[str, ...]
    depth: int
    exp: int
    delegate_to: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[Rule, ...], ...]
    needs_call: bool
    needs_signature: bool
    holder: str | None
    requires: tuple[ThirdPartyCaveat, ...]

    @property
    def link(self) -> str:
        """The public name of this delegation, what a kill of it names."""
        return self.links[-1]

    @property
    def tools(self) -> tuple[str, ...]:
        """The tool patterns that every ``allow`` leaves, sorted."""
        # A token without `allow` is malformed (SPEC 6.2), so no tool is left.
        left: set[str] = {"*"} if self.groups else set()
        for group in self.groups:
            left = set(meet_all(left, [rule.tool for rule in group]))
        return tuple(sorted(left))

    def third_party_caveats_of(self, tool: str) -> tuple[ThirdPartyCaveat, ...]:
        """Return what has to be answered to call a tool, in the token's order; nothing where it may not be called."""
        if not self.requires or all(meet(allowed, tool) is None for allowed in self.tools):
            return ()
        return tuple([required for required in self.requires if required.binds(tool)])

    def takes(self, tool: str, argument: str) -> bool:
        """Return whether some call of this tool may carry this argument at all."""
        return all(
            any(
                meet(rule.tool, tool) is not None and (rule.args is None or rule.open or argument in rule.args)
                for rule in group
            )
            for group in self.groups
        )

    def names(self, tool: str, argument: str) -> bool:
        """Return whether the mint's own rules for a tool name this argument."""
        return any(argument in (rule.args or {}) for rule in self._granted(tool))

    def needs(self, tool: str, argument: str) -> bool:
        """Return whether the mint's own rules allow no call of this tool without this argument."""
        return all(needs(rule, argument) for rule in self._granted(tool))

    def _granted(self, tool: str) -> list[Rule]:
        # The first ``allow`` is the mint's, and is in every token for this audience, exchanged ones too.
        return [rule for rule in (self.groups or ((),))[0] if meet(rule.tool, tool) is not None]


def needs(rule: Rule, argument: str) -> bool:
    """Return whether a rule allows no call without this argument."""
    constraint = (rule.args or {}).get(argument)
    return constraint is not None and not (isinstance(constraint, Constraint) and constraint.optional)


def meet(pattern: str, other: str) -> str | None:
    """Return the narrower of two tool patterns, or None when no tool matches both: patterns nest or are apart."""
    if matches_tool(pattern, other):
        return other
    return pattern if matches_tool(other, pattern) else None


def meet_all(patterns: Iterable[str], others: Sequence[str]) -> list[str]:
    """Return every pattern that some pair of the two lists has in common."""
    return [common for pattern in patterns for other in others if (common := meet(pattern, other)) is not None]


def outline(macaroon: Macaroon) -> Outline:
    """Read a held token.

    Args:
        macaroon: A task's token.

    Returns:
        What it says, unproven.

    Raises:
        MalformedTokenError: It is no token of an agent.
    """
    identifier = macaroon.unverified_identifier
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("this is an operator's token, not an agent's")
    # Lenient where a verifier is strict: a caveat of a newer version stays in the token and is skipped here.
    glimpses = [_glimpse(packet) for packet in macaroon.packets if isinstance(packet, bytes)]
    depth, exp, bound = identifier.depth, identifier.exp, macaroon.bound_to
    named, hops = [], []
    for glimpse in glimpses:
        if glimpse.to is not None and glimpse.hop is not None:
            named.append(glimpse.to)
            hops.append(glimpse.hop.encode())
            depth -= 1
        # A caveat can only lower a limit, so the least one counts, whatever the order.
        depth = depth if glimpse.depth is None else min(depth, glimpse.depth)
        exp = exp if glimpse.exp is None else min(exp, glimpse.exp)
    return Outline(
        identifier=identifier,
        named=tuple(named),
        links=(identifier.id, *chain.links_of(identifier.id, tuple(hops))),
        depth=max(depth, 0),
        exp=exp,
        delegate_to=tuple([glimpse.delegate_to for glimpse in glimpses if glimpse.delegate_to]),
        groups=tuple([rules for glimpse in glimpses if (rules := _rules(glimpse))]),
        needs_call=any("call" in glimpse.require for glimpse in glimpses),
        needs_signature=any("signature" in glimpse.require for glimpse in glimpses),
        holder=None if bound is None else bound.holder,
        requires=tuple([found for packet in macaroon.packets if (found := _third_party(packet)) is not None]),
    )


def unverified_chain(macaroon: Macaroon, discharges: Sequence[Macaroon] = ()) -> ProvenChain:
    """Work out what a chain says as a verifier would, with a stand-in for the key: nothing is proven by it.

    Args:
        macaroon: The token.
        discharges: What goes along with it.

    Raises:
        MalformedTokenError: It is an operator's token, or its identifier cannot be read.
    """
    identifier = macaroon.unverified_identifier
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("an operator's token is good for the mint alone, and names no tools of a service")
    # A key of zeros: this object must never decide a call, and no signature is compared.
    reading = ProvenChain(PreparedKey(identifier.kid, bytes(KEY_BYTES)), identifier, b"", b"")
    # The last packet of a one-shot token is the call's proof, which no caveat reader knows.
    packets = macaroon.packets[:-1] if macaroon.is_one_shot else macaroon.packets
    packets = (*packets, *(packet for each in discharges for packet in each.packets))
    reading.read_unproven(packets, identifier.aud)
    # Matched by identifier alone: whether the discharge is bound to this token, only the verifier can prove.
    answered = {each.identifier for each in discharges}
    reading.unmet = tuple([unmet for unmet in reading.unmet if unmet[1].encode() not in answered])
    return reading


def holder_of(macaroon: Macaroon) -> str:
    """Return whose token this is: the agent it was delegated to last, else the one that the mint gave it to.

    Raises:
        MalformedTokenError: It is no token of an agent.
    """
    held = outline(macaroon)
    return held.named[-1] if held.named else held.identifier.agent


def links_of(macaroon: Macaroon) -> tuple[str, ...]:
    """Return the names of a token's links, the mint's first; a kill of one ends it and what was handed on from it.

    Raises:
        MalformedTokenError: It is no token of an agent.
    """
    return outline(macaroon).links


def caveats_of(macaroon: Macaroon) -> list[Any]:
    """Return a token's caveats as plain data, in order, for people to read."""
    return [_plain(packet) for packet in macaroon.packets]


def _glimpse(packet: bytes) -> _Glimpse:
    try:
        return msgspec.json.decode(packet, type=_Glimpse)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Glimpse()


def _third_party(packet: bytes | wire.ThirdPartyPacket) -> ThirdPartyCaveat | None:
    try:
        return None if isinstance(packet, bytes) else ThirdPartyCaveat.read(packet.identifier)
    except ArxError:
        return None


def _rules(glimpse: _Glimpse) -> tuple[Rule, ...]:
    try:
        return msgspec.json.decode(glimpse.allow, type=tuple[Rule, ...]) if bytes(glimpse.allow) else ()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ()


def _plain(packet: bytes | wire.ThirdPartyPacket) -> Any:
    if not isinstance(packet, bytes):
        found = _third_party(packet)
        return {"third_party": None if found is None else msgspec.json.decode(msgspec.json.encode(found))}
    try:
        return msgspec.json.decode(packet)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {"unreadable": f"{len(packet)} bytes"}
