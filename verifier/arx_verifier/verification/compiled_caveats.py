# SPDX-License-Identifier: Apache-2.0
"""Compile authenticated caveats, and cache the results for all tokens of the process.  SPEC 6, 7.

Tokens of one policy have the same caveats, except for hops.  One cache has single caveats by their bytes without the
hop, one has the caveats of a chain together, one has the rules of a tool, and one has refusals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import arx_verifier.limits as limits
import arx_verifier.names as names
import arx_verifier.verification.reasons as reasons
from arx_verifier.constraints.rule import (
    MAX_TOLD,
    CompiledRule,
    WireRule,
    explain,
    explain_first,
    explain_last,
    merge,
    permits,
)
from arx_verifier.errors import ArxError, Failure, MalformedTokenError
from arx_verifier.token import caveats, chain, targets
from arx_verifier.token.macaroon import Identifier
from arx_verifier.token.wire import ThirdPartyPacket, cut_out
from arx_verifier.verification.effects import Allow, ChainRestrictions, add_rows, effects_of
from arx_verifier.verification.reasons import PLACES

if TYPE_CHECKING:
    from arx_verifier.token.discharge import ThirdPartyCaveat

# Bounds of the caches: a holder attenuates as often as it likes, so that it could otherwise fill a service's memory.
# Only authenticated bytes are cached, and nothing cached is secret.
_MAX_PARTS: Final = 12_288  # of all cached caveats; measured, a part takes up to 430 bytes: about 5 MB
_MAX_TOGETHER: Final = 16_384  # parts of cached sequences; one takes about 100 bytes: under 2 MB
_MAX_REFUSED: Final = 512  # caveats that no chain may have; one takes up to 1 KB
_MAX_THIRD_PARTIES: Final = 2048  # parts of third-party caveats; under 1 MB
_MAX_RULES: Final = 131_072  # parts of rules by tool, with tests and places; one takes 30 to 40 bytes: about 5 MB
_MAX_KEPT_BYTES: Final = 512  # of a caveat; five constraints and a delegation take about 230
_MAX_KEPT_PARTS: Final = 32  # about 13 KB of rules and operands

MAX_CAVEAT_CHARS: Final = 2048  # every record of a chain has them; a hop's are about 100
HOP_CHARS: Final = 12
HOP_MARK: Final = b'"hop":"'
GAP: Final = HOP_MARK + b"\0"  # replaces mark and hop in a cache key; JSON text has no zero byte


class CompiledCaveat:
    """One caveat, its operands checked.

    Attributes:
        caveat: The caveat; its ``hop`` is that of the token that it was read from first.
        allow: Its rules, or None.
        to: The agent that it delegates to, or empty.
        agents: The targets of that agent.
        effects: The effects of its other members; see ``effects.effects_of``.
        parts: An upper bound of the number of its rules, operands and members.
    """

    __slots__ = ("agents", "allow", "caveat", "effects", "parts", "to")

    def __init__(self, caveat: caveats.WireCaveat, parts: int, shared: bool) -> None:
        """Check and compile a caveat's rules.

        Args:
            caveat: The caveat.
            parts: An upper bound of the number of its parts.
            shared: Whether the result is cached for other chains.

        Raises:
            MalformedTokenError: An operand that SPEC 7 does not allow.
        """
        self.caveat, self.parts = caveat, parts
        self.allow = Allow(caveat.allow, shared) if caveat.allow is not None else None
        self.to = caveat.to or ""
        self.agents = targets.agent_targets(self.to) if self.to else ()
        self.effects = effects_of(caveat)


class ToolRules:
    """A chain's rules for one tool.

    Attributes:
        groups: Compiled rules: one of each group must permit the call.
        matching: For each ``allow``, its rules for this tool, compiled and as written.
        tests: An upper bound of the number of constraint tests.
        merged: Whether ``groups`` were merged.
        single: Whether each ``allow`` has exactly one rule for the tool, so that all must permit.
    """

    __slots__ = ("groups", "matching", "merged", "single", "tests")

    def __init__(
        self, matching: Sequence[Sequence[tuple[CompiledRule, WireRule]]], tests: int, merge_them: bool
    ) -> None:
        self.matching, self.tests, self.merged = matching, tests, merge_them
        groups: list[Sequence[CompiledRule]] = [[rule for rule, _ in group] for group in matching]
        self.single = all([len(group) == 1 for group in groups])  # noqa: C419 - a generator costs more
        if merge_them and self.single:
            groups = [(merge([rule for (rule,) in groups]),)]
        self.groups = groups

    def are_too_much(self, args: Mapping[str, Any], written: bytes | None) -> bool:
        """Return whether their tests of these arguments would be more work than a call may cause.

        Args:
            args: The call's arguments.
            written: Their ``jcs.flat_jcs``, if it was computed.
        """
        # The JSON is an upper bound of ``size_of`` and is known already: below the limit, nothing is counted.
        if written is not None and self.tests * len(written) <= limits.MAX_WORK:
            return False
        return self.tests * limits.size_of(args) > limits.MAX_WORK

    def explain_first(
        self, group: Sequence[CompiledRule], places: Sequence[str], args: Mapping[str, Any], name: str
    ) -> tuple[tuple[Failure, ...], Callable[[], tuple[Failure, ...]]]:
        """Return the failure of one argument, for the record, and a function that returns all failures.

        Args:
            group: The one of ``groups`` that refused the call.
            places: The place of each ``allow``.
            args: The call's arguments.
            name: The argument that ``wrong_in`` found.
        """
        if self.single:
            first = explain_first([pair for (pair,) in self.matching], places, args, name)
        else:
            at = self.groups.index(group)
            first = explain_first(self.matching[at][-1:], places[at : at + 1], args, name)
        return first, lambda: self.explain(places, args)

    def explain(self, places: Sequence[str], args: Mapping[str, Any]) -> tuple[Failure, ...]:
        """Return the failures of all arguments that the rules refuse, ``MAX_TOLD`` at most.

        Args:
            places: The place of each ``allow``.
            args: The call's arguments.
        """
        if self.single:
            asked, said = [rule for (rule,) in self.groups], [pair for (pair,) in self.matching]
            return tuple(explain_last(asked, said, places, args))
        failures: list[Failure] = []
        for place, matching in zip(places, self.matching, strict=True):
            if any([permits(compiled, args) for compiled, _ in matching]):  # noqa: C419 - a generator costs more
                continue
            for compiled, rule in matching:
                if len(failures) == MAX_TOLD:
                    return tuple(failures)
                failures += explain(rule, args, place, MAX_TOLD - len(failures), compiled)
        return tuple(failures)


# Keys: the audience, the identifier's depth, whether it is bound, and the keys of the caveats in ``KEPT``.
TOGETHER: Final[limits.Kept[tuple[str, int, bool, tuple[bytes | ThirdPartyPacket, ...]], ChainRestrictions]] = (
    limits.Kept(_MAX_TOGETHER, 6)
)
# Keys: the caveat's bytes, with ``GAP`` for its hop.
KEPT: Final[limits.Kept[bytes | ThirdPartyPacket, CompiledCaveat]] = limits.Kept(_MAX_PARTS, 3, TOGETHER)
REFUSED: Final[limits.Kept[bytes, tuple[type[ArxError], str]]] = limits.Kept(_MAX_REFUSED, 1)  # by bytes
_THIRD_PARTIES: Final[limits.Kept[bytes, tuple["ThirdPartyCaveat", int]]] = limits.Kept(_MAX_THIRD_PARTIES, 1)
_GATHERED: Final[limits.Kept[tuple[str, tuple[Allow, ...]], ToolRules]] = limits.Kept(_MAX_RULES, 8)


def read_caveats(
    packets: tuple[bytes | ThirdPartyPacket, ...], identifier: Identifier, audience: str
) -> tuple[ChainRestrictions, Sequence[str]]:
    """Return the restrictions of authenticated caveats.  SPEC 6.

    Args:
        packets: The caveats, in order; those of a bound token without what its holders signed.
        identifier: The token's identifier.
        audience: The verifier's audience.

    Returns:
        The restrictions up to the first caveat that can never hold, which is then ``refused``; and the links so far.

    Raises:
        MalformedTokenError: The identifier's id is not canonical base64url.
    """
    if ThirdPartyPacket in map(type, packets):
        # A third-party caveat is sealed for one token: no other token has this sequence, so it is not kept.
        return _read_each(packets, identifier, audience)[:2]
    keys, hops = cut_out(packets, HOP_MARK, HOP_CHARS)
    together = (audience, identifier.depth, identifier.holder is not None, keys)
    said = TOGETHER.get(together)
    if said is not None:
        try:
            return said, chain.links_of(identifier.id, hops)[: len(said.named)]
        except MalformedTokenError:
            pass  # ``_read_each`` finds the caveat with the wrong hop
    said, links, known = _read_each(packets, identifier, audience)
    if known and _may_be_kept(said, keys) and _are_links(identifier, hops):
        TOGETHER.keep(together, said, sum([2 + len(key) // 100 for key in keys]))
    return said, links


def _may_be_kept(said: ChainRestrictions, keys: Sequence[bytes | ThirdPartyPacket]) -> bool:
    """Return whether the restrictions may be cached: only if each caveat that they are made of is cached."""
    read = keys[: said.read]
    # The text after a mark is a hop if the caveat is cached.  In a refused caveat it may be the reason of the refusal.
    if said.refused is not None and read and read[-1] in REFUSED and HOP_MARK not in read[-1]:
        read = read[:-1]
    return all([key in KEPT for key in read])  # noqa: C419 - a generator costs more


def _are_links(identifier: Identifier, hops: tuple[bytes, ...]) -> bool:
    """Return whether the id and all hops are canonical, so that none of them is the reason of a refusal."""
    try:
        chain.links_of(identifier.id, hops)
    except MalformedTokenError:
        return False
    return True


def _read_each(
    packets: Sequence[bytes | ThirdPartyPacket], identifier: Identifier, audience: str
) -> tuple[ChainRestrictions, Sequence[str], bool]:
    """Read one caveat after the other.

    Returns:
        As ``read_caveats``; and whether every first-party caveat had been met before.  A sequence is cached when it
        comes again: most that are met once, such as those about one order, never do.
    """
    known, said, met = KEPT, ChainRestrictions(identifier.depth, identifier.holder is not None), True
    allows, places, named, links, hops = [], [], [], [], []
    agents: list[str] = []
    added: list[str] = []
    steps: list[tuple[str, ...]] = []
    link = identifier.id
    chain.links_of(link, ())  # raises outside of ``try``: a wrong id is not the fault of a caveat
    index, parts = -1, len(packets)
    try:
        for index, packet in enumerate(packets):
            if not isinstance(packet, bytes):
                parts += _take_third_party(said, index, packet)
                continue
            start, mark, end = packet.rpartition(HOP_MARK)
            terms = known.get(start + GAP + end[HOP_CHARS:] if mark else packet)
            if terms is None:
                terms, met = read_terms(packet), False
            parts += terms.parts
            if index:
                # Without the hop: chains that differ in their hops alone share the result.
                added.append((start + end[HOP_CHARS + 2 :] if terms.to else packet).decode())
            if to := terms.to:
                link = _link_of(link, packet, end)
                _hold_delegate(said, index, to)
                said.depth -= 1
                named.append(to)
                links.append(link)
                hops.append(index)
                agents += terms.agents
                steps.append(tuple(added))
                added.clear()
            if terms.allow is not None:
                allows.append(terms.allow)
                places.append(PLACES[index + 1])
            for take, value in terms.effects:
                take(said, index, value, audience)
        _require_allow(places)
    except ArxError as error:
        said.refused, parts = (error.code, reasons.failures_of(error, index)), limits.parts_of(packets)
    said.parts, said.allows, said.places, said.read = parts, tuple(allows), tuple(places), index + 1
    said.named, said.hops = tuple(named), tuple(hops)
    if sum([len(text) for step in steps for text in step]) <= MAX_CAVEAT_CHARS:
        said.steps = tuple(steps)
    said.targets = (*[f"task:{task}" for task in said.tasks], *said.operators, *agents)
    return said, links, met


def _take_third_party(said: ChainRestrictions, index: int, packet: ThirdPartyPacket) -> int:
    """Add a third-party caveat to the restrictions, and return the number of its parts."""
    third_party, parts = third_party_of(index, packet)
    said.unmet = (*said.unmet, third_party)
    if (wanted := third_party[1]).when is not None and wanted.opened is not None:
        add_rows(said, index, "when", [(marks, wanted) for marks in wanted.when])
        said.opened = min(said.opened, wanted.opened)
    return parts


def _require_allow(places: Sequence[str]) -> None:
    """Raise if the first caveat has no ``allow``.  SPEC 6.2."""
    # Else a mint that forgets it would grant every tool of the service.
    if not places or places[0] != PLACES[1]:
        raise MalformedTokenError("a token's first caveat says what it allows")


def _hold_delegate(said: ChainRestrictions, index: int, to: str) -> None:
    """Raise if no delegation may follow, or if an earlier ``delegate_to`` does not match the agent.  SPEC 5.2."""
    if said.depth == 0:
        raise reasons.too_deep(index, to)
    for rule_index, patterns in said.delegate_to:
        if not names.matches_any_path(patterns, to):
            raise reasons.not_named(index, rule_index, patterns, to)


def _link_of(link: str, packet: bytes, end: bytes) -> str:
    """Return the link of a delegation.  SPEC 5.3.

    Args:
        link: The link before it.
        packet: The caveat's bytes as received.
        end: The bytes after the last ``HOP_MARK`` in them.

    Raises:
        MalformedTokenError: *end* does not begin with a hop.
    """
    try:
        return chain.links_of(link, (end[:HOP_CHARS],))[0]
    except MalformedTokenError:
        read_terms(packet)  # raises the exact error, if the caveat itself is malformed
        raise MalformedTokenError("a hop is 9 bytes in base64url") from None


def read_terms(packet: bytes) -> CompiledCaveat:
    """Compile one authenticated caveat and cache the result, or the refusal.

    Args:
        packet: The caveat's bytes as received.

    Raises:
        UnknownCaveatError: It has a member, or requires a proof, that this version does not know.
        MalformedTokenError: It is not a caveat of SPEC 6, or an operand is wrong.
    """
    known = REFUSED.get(packet)
    if known is not None:
        raise known[0](known[1])
    try:
        return _read_new(packet)
    except ArxError as error:
        if len(packet) <= _MAX_KEPT_BYTES:
            REFUSED.keep(packet, (type(error), str(error)), 0)
        raise


def _read_new(packet: bytes) -> CompiledCaveat:
    caveat = caveats.read_proven(packet)
    if caveat.key is not None:
        # Those of a bound token were cut out before: ``holder.unbound``.
        raise MalformedTokenError("only a delegation of a bound token has `key` and `sig`")
    if caveat.call is not None:
        raise MalformedTokenError("a `call` stands alone in its caveat and is the last")
    if caveat.hop is not None:
        caveats.canonical_hop(caveat.hop)
    parts = limits.parts_in(packet)
    key = key_of(packet, caveat.hop) if len(packet) <= _MAX_KEPT_BYTES and parts <= _MAX_KEPT_PARTS else None
    terms = CompiledCaveat(caveat, parts, key is not None)
    if key is not None:
        KEPT.keep(key, terms, parts)
    return terms


def key_of(packet: bytes, hop: str | None) -> bytes | None:
    """Return the cache key of a caveat: its bytes without those of its hop.

    Args:
        packet: Canonical JSON.
        hop: Its hop, 12 characters, or None.

    Returns:
        The key; or None for a caveat that cannot be distinguished from one with a hop.
    """
    # A caveat without a hop has the mark too, if an argument is named `hop`.  In a caveat with a hop, the last mark is
    # the hop's: no member after it has names, and canonical text has no bare quote.
    start, mark, end = packet.rpartition(HOP_MARK)
    if not mark:
        return packet
    return start + GAP + end[HOP_CHARS:] if hop is not None and end.startswith(hop.encode("ascii")) else None


def third_party_of(index: int, packet: ThirdPartyPacket) -> tuple[tuple[int, "ThirdPartyCaveat"], int]:
    """Parse an authenticated third-party caveat and cache the result.

    Args:
        index: Its index, from 0.
        packet: The caveat.

    Returns:
        The index with the caveat; and the number of its parts.

    Raises:
        UnknownCaveatError: This version does not know a third-party caveat of this kind.
    """
    identifier = packet.identifier
    known = _THIRD_PARTIES.get(identifier)
    if known is None:
        from arx_verifier.token.discharge import ThirdPartyCaveat  # imported on use: few tokens have one

        known = ThirdPartyCaveat.read(identifier), limits.THIRD_PARTY_PARTS + identifier.count(b",")
        if len(identifier) <= _MAX_KEPT_BYTES:
            _THIRD_PARTIES.keep(identifier, known, known[1])
    return (index, known[0]), known[1]


def gather(tool: str, allows: tuple[Allow, ...], *, again: bool) -> ToolRules | None:
    """Return a chain's rules for one tool.

    Args:
        tool: The tool, not empty.
        allows: Every ``allow`` of the chain, in order.
        again: Whether this is not the chain's first call of the tool, so that merging the rules pays.

    Returns:
        The rules, or None if an ``allow`` has none for this tool.
    """
    found = _GATHERED.get((tool, allows))
    if found is not None:
        return found
    matching: list[list[tuple[CompiledRule, WireRule]]] = []
    for allow in allows:
        group = [pair for pair in zip(allow.compiled, allow.rules, strict=True) if pair[0].matches_tool(tool)]
        if not group:
            return None
        matching.append(group)
    shared = len(tool) <= names.MAX_TOOL_CHARS and all([allow.shared for allow in allows])  # noqa: C419 - as above
    rules = ToolRules(matching, sum([allow.weight for allow in allows]), again or shared)
    if shared:
        _GATHERED.keep((tool, allows), rules, rules.tests + 2 * sum([len(group) + 1 for group in matching]))
    return rules
