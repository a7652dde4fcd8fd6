# SPDX-License-Identifier: Apache-2.0
"""What a proven chain allows, worked out once and kept for its next call.  SPEC 5, 6.

A ``ProvenChain`` is built after the signatures hold, never before.  What does not depend on the request (names,
depth, unknown caveats) is judged while it is built; what does is left in the form that ``verify`` judges fastest.  It
holds a live signature, so it stays in memory, is never pickled and shows nothing in ``repr``.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from arx_verifier import bounds, caveats, chain, codec, names, scopes
from arx_verifier.constraints import MAX_TOLD, CompiledRule, WireRule, compile_wire, explain, merge, permits, read_wire
from arx_verifier.decisions import ChainFacts
from arx_verifier.errors import ArxError, Failure, MalformedTokenError, shorten
from arx_verifier.keys import AudienceKey, KeyRing
from arx_verifier.macaroon import MINT_AUDIENCE, Identifier, OperatorIdentifier

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


class Refused(NamedTuple):
    """A refusal on its way to becoming a decision."""

    code: str
    failures: tuple[Failure, ...]


class _Allow(NamedTuple):
    """One ``allow``: where it stands, as it is written, and ready to be asked."""

    place: str
    rules: tuple[WireRule, ...]
    compiled: Sequence[CompiledRule]
    tests: int


class ToolRules(NamedTuple):
    """The rules of each ``allow`` that match one tool, how many tests they can cost, and whether they were merged."""

    groups: Sequence[Sequence[CompiledRule]]
    tests: int
    merged: bool


class ProvenChain:
    """A chain whose signature was proven with ``key``, without the call it may have carried.

    Attributes:
        key: The audience key; compared by identity, so that a replaced key ends the entry.
        signature: The chain's last signature, a secret.
        rest: The parent's last 0 to 2 bytes, when it was cut from a one-shot text.
        identifier: The proven identifier.
        nbf: The latest start of validity, ms.
        exp: The earliest end of validity, ms.
        scopes: Everything whose kill or ban ends this token.
        needs_call: Whether a per-call proof is demanded.
        fresh_ms: The smallest ``fresh``, or None.
        networks: One tuple of networks for each ``net``, with its place.
        facts: Who and through whom, for the decision record.
        parts: How much there is of it to keep in memory.
        refused: What speaks against this chain whatever is asked, or None.
    """

    __slots__ = (
        "_allows",
        "_by_tool",
        "exp",
        "facts",
        "fresh_ms",
        "identifier",
        "key",
        "nbf",
        "needs_call",
        "networks",
        "parts",
        "refused",
        "rest",
        "scopes",
        "signature",
    )

    def __init__(self, key: AudienceKey, identifier: Identifier, signature: bytes, rest: bytes) -> None:
        self.key = key
        self.identifier = identifier
        self.signature = signature
        self.rest = rest
        self.nbf, self.exp = 0, identifier.exp
        self.needs_call = False
        self.parts = 0
        self.fresh_ms: int | None = None
        self.networks: list[tuple[str, Networks]] = []
        self.refused: Refused | None = None
        self.scopes: tuple[str, ...] = ()
        self._allows: list[_Allow] = []
        self._by_tool: dict[str, ToolRules] = {}
        self.facts: ChainFacts

    def judge_tool(self, tool: str, args: Mapping[str, Any]) -> Refused | None:
        """Apply every ``allow``: in each, one rule must match the tool and all its arguments."""
        rules = self._by_tool.get(tool)
        if rules is None:
            rules = self._gather(tool) if tool else None  # a request that maps to no tool: not even `*` allows it
            if rules is None:
                return self._explain_tool(tool)
        elif not rules.merged:  # asked for again, so worth the work
            rules = self._merge(tool, rules)
        if rules.tests > bounds.FREE_TESTS and rules.tests * bounds.size_of(args) > bounds.MAX_WORK:
            return Refused(
                "argument_not_allowed",
                (
                    Failure(
                        "request", "size of the arguments", "fewer or shorter arguments", "more work than is allowed"
                    ),
                ),
            )
        for group in rules.groups:
            for rule in group:
                if permits(rule, args):
                    break
            else:
                return self._explain_arguments(tool, args)
        return None

    def judge_peer(self, peer: str | None) -> Refused | None:
        """Apply every ``net`` to the peer's address; an unknown peer is refused."""
        address = _address(peer) if peer is not None else None
        for place, networks in self.networks:
            if address is None or not any(address in network for network in networks):
                expected = " or ".join(str(network) for network in networks)
                came = shorten(peer) if peer is not None else "no address"
                return Refused("network_not_allowed", (Failure(place, "net", expected, came),))
        return None

    def _gather(self, tool: str) -> ToolRules | None:
        groups, tests = [], 0
        for allow in self._allows:
            group = [rule for rule in allow.compiled if rule.matches_tool(tool)]
            if not group:
                return None
            groups.append(group)
            tests += allow.tests
        if len(self._by_tool) >= bounds.tools_for(self.parts):
            self._by_tool.clear()
        self._by_tool[tool] = rules = ToolRules(groups, tests, False)
        return rules

    def _merge(self, tool: str, rules: ToolRules) -> ToolRules:
        groups = rules.groups
        if all(len(group) == 1 for group in groups):
            groups = [[merge([rule for (rule,) in groups])]]
        self._by_tool[tool] = merged = ToolRules(groups, rules.tests, True)
        return merged

    def _explain_tool(self, tool: str) -> Refused:
        came = shorten(tool) if tool else "a request that is no tool"
        return Refused(
            "tool_not_allowed",
            tuple(
                Failure(allow.place, "tool", " or ".join(rule.tool for rule in allow.rules), came)
                for allow in self._allows
                if not any(rule.matches_tool(tool) for rule in allow.compiled)
            ),
        )

    def _explain_arguments(self, tool: str, args: Mapping[str, Any]) -> Refused:
        failures: list[Failure] = []
        for allow in self._allows:
            matching = [pair for pair in zip(allow.compiled, allow.rules, strict=True) if pair[0].matches_tool(tool)]
            if not any(permits(compiled, args) for compiled, _ in matching):
                for _, rule in matching:
                    if len(failures) == MAX_TOLD:
                        return Refused("argument_not_allowed", tuple(failures))
                    failures += explain(read_wire(rule), args, allow.place, MAX_TOLD - len(failures))
        return Refused("argument_not_allowed", tuple(failures))

    def allow(self, place: str, rules: tuple[WireRule, ...]) -> None:
        """Add one ``allow``, its operands checked now, so that a bad one refuses alike on first and later sight."""
        compiled = [compile_wire(rule) for rule in rules]
        self._allows.append(_Allow(place, rules, compiled, sum([rule.weight for rule in compiled])))

    def read_caveats(self, packets: Sequence[bytes | codec.ThirdParty], audience: str) -> None:
        """Take in the proven caveats, in order; the first that can never hold ends it as ``refused``."""
        reading = _Reading(self, audience)
        self.parts = bounds.parts_of(packets)
        place = "identifier"
        try:
            for index, packet in enumerate(packets):
                place = f"caveat {index + 1}"
                if not isinstance(packet, bytes):
                    raise _prohibits("missing_discharge", place, "third-party caveat", "its discharge", "none")
                reading.take(place, caveats.read_proven(packet))
            if not packets or not self._allows or self._allows[0].place != "caveat 1":
                # Without this a mint's slip would grant every tool there is.
                raise MalformedTokenError("a token's first caveat says what it allows")
        except ArxError as error:
            failures = error.failures or (Failure(place, "shape", "a caveat of SPEC 6", str(error)),)
            self.refused = Refused(error.code, failures)
        self.scopes = tuple(reading.scopes)
        self.facts = reading.facts()

    def __repr__(self) -> str:
        return f"<ProvenChain of session {self.identifier.session}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a ProvenChain holds a live signature and is not pickled")


class _Reading:
    """Where one walk over the caveats stands: names, links and depth that bind what follows."""

    def __init__(self, proven: ProvenChain, audience: str) -> None:
        self._proven = proven
        self._audience = audience
        identifier = proven.identifier
        self._link = codec.bytes_of(identifier.id)
        self._depth = identifier.depth
        self._hand_to: list[tuple[str, tuple[str, ...]]] = []
        self._named: list[str] = []
        self._links: list[str] = []
        self._tasks: list[str] = []
        self.scopes = ["realm", f"key:{identifier.kid}"]
        if identifier.subject is not None:
            self.scopes.append(scopes.subject_scope(*identifier.subject))
        if identifier.policy is not None:
            self.scopes.append(f"policy:{identifier.policy}")
        self.scopes += scopes.agent_scopes(identifier.agent)
        self.scopes += [f"session:{identifier.session}", f"link:{identifier.id}"]
        if identifier.task is not None:
            self.scopes.append(f"task:{identifier.task}")

    def take(self, place: str, caveat: caveats.WireCaveat) -> None:
        """Take in one caveat."""
        proven = self._proven
        if caveat.to is not None and caveat.hop is not None:
            self._hand_over(place, caveat.to, caveat.hop)
        if caveat.call is not None:
            raise MalformedTokenError("a `call` stands alone in its caveat and is the last")
        if caveat.allow is not None:
            proven.allow(place, caveat.allow)
        if caveat.aud is not None and self._audience not in caveat.aud:
            raise _prohibits("wrong_audience", place, "aud", " or ".join(caveat.aud), self._audience)
        if caveat.depth is not None:
            self._depth = min(self._depth, caveat.depth)
        if caveat.exp is not None:
            proven.exp = min(proven.exp, caveat.exp)
        if caveat.nbf is not None:
            proven.nbf = max(proven.nbf, caveat.nbf)
        if caveat.fresh is not None:
            proven.fresh_ms = caveat.fresh if proven.fresh_ms is None else min(proven.fresh_ms, caveat.fresh)
        if caveat.hand_to is not None:
            self._hand_to.append((place, caveat.hand_to))
        if caveat.net is not None:
            proven.networks.append((place, tuple(map(caveats.read_network, caveat.net))))
        if caveat.require is not None:
            if "holder" in caveat.require:
                raise _prohibits("proof_missing", place, "require", "a holder's signature", "none: not in this version")
            proven.needs_call = True
        if caveat.task is not None:
            self._tasks.append(caveat.task)
            self.scopes.append(f"task:{caveat.task}")

    def _hand_over(self, place: str, to: str, hop: str) -> None:
        if self._depth == 0:
            raise _prohibits("too_deep", place, "depth", "no further hand-over", f"a hand-over to {to}")
        self._depth -= 1
        for from_place, patterns in self._hand_to:
            if not names.matches_any_path(patterns, to):
                raise _prohibits("name_not_allowed", place, f"hand_to of {from_place}", " or ".join(patterns), to)
        self._link = chain.next_link(self._link, caveats.canonical_hop(hop))
        link = codec.text_of(self._link)
        self._named.append(to)
        self._links.append(link)
        self.scopes += scopes.agent_scopes(to)
        self.scopes.append(f"link:{link}")

    def facts(self) -> ChainFacts:
        """Return who and through whom, as far as the caveats could be read."""
        identifier = self._proven.identifier
        return ChainFacts(
            session=identifier.session,
            agent=identifier.agent,
            named=tuple(self._named),
            links=tuple(self._links),
            task=identifier.task,
            tasks=tuple(self._tasks),
            token=identifier.id,
            subject=identifier.subject,
            audience=identifier.aud,
            policy=identifier.policy,
            kid=identifier.kid,
            assurance="bearer",
            model=identifier.model,
        )


def _prohibits(code: str, place: str, rule: str, expected: str, came: str) -> ArxError:
    return ArxError(rule, code=code, failures=(Failure(place, rule, expected, came),))


def check_identifier(identifier: Identifier | OperatorIdentifier, audience: str, keys: KeyRing) -> Identifier:
    """Hold a proven identifier to the realm's outer limits.

    Args:
        identifier: What ``read_identifier`` read.
        audience: This verifier's audience.
        keys: For the realm's longest token life.

    Returns:
        The identifier, an agent's.

    Raises:
        MalformedTokenError: An operator's, a life longer than the realm's, a bound token, or no task.
    """
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("an operator's token is good for the mint alone")
    if not 0 < identifier.exp - identifier.iat <= keys.max_ttl_ms:
        # A token that lives longer would outlive the record of its kill.
        raise MalformedTokenError(f"a token of this realm lives at most {keys.max_ttl_ms} ms")
    if identifier.holder is not None:
        raise MalformedTokenError("bound tokens are reserved and not accepted by this version")
    if (identifier.task is None) != (audience == MINT_AUDIENCE):
        raise MalformedTokenError("a token for a tool service has a task; one for the mint has none")
    return identifier


@lru_cache(maxsize=1024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
