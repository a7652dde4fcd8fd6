# SPDX-License-Identifier: Apache-2.0
"""The restrictions of an authenticated chain, computed once and cached for its next call.  SPEC 5, 6.

A ``ProvenChain`` is built only after the signatures were verified.  Restrictions that do not depend on the request
(names, depth, unknown caveats) are applied while it is built.  All others are compiled for ``evaluate``.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import arx_verifier.limits as limits
import arx_verifier.names as names
from arx_verifier.amounts import millionths_of
from arx_verifier.constraints.rule import could_permit, permits_with_any, wrong_in
from arx_verifier.errors import Failure, shorten
from arx_verifier.journal.record import ChainFacts, ProvenHolder
from arx_verifier.ledger.pools import PERIOD_MS, pool_id
from arx_verifier.request import AccessRequest
from arx_verifier.token import chain, targets, wire
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import PreparedKey
from arx_verifier.token.macaroon import IAT_AHEAD_MS, Identifier, about
from arx_verifier.verification.compiled_caveats import ToolRules, gather, read_caveats
from arx_verifier.verification.effects import Allow, ChainRestrictions, Condition, Shown
from arx_verifier.verification.holder_proof import NOT_BOUND, UNVOUCHED, BoundPackets, HolderProof, prove_holders
from arx_verifier.verification.reasons import PLACES, REQUEST_UNSEEN, Refused

if TYPE_CHECKING:
    from arx_verifier.token.discharge import ThirdPartyCaveat
    from arx_verifier.verification.marks import MarkRows


_refused: Final[Callable[[tuple[Any, ...]], Refused]] = partial(tuple.__new__, Refused)  # runs no Python
_TOO_MUCH: Final = Refused(
    "argument_not_allowed",
    (Failure("request", "size of the arguments", "fewer or shorter arguments", "more than one call may have tested"),),
)
_NONE_REFUSED: Final = (None, _TOO_MUCH)
_LINK: Final = "link:".__add__


class BudgetPool(NamedTuple):
    """A pool that a call of a chain draws from.  SPEC 17.3.

    Attributes:
        id: Its identity; see ``ledger.pool_id``.
        name: Its name.
        unit: Its unit.
        max: What it has in a period, millionths.
        period_ms: The length of a period, ms; 0 for the whole task.
        opened: When it was opened, ms since the Unix epoch.
        place: The place of its caveat.
        hop: The agent that held the token then.
    """

    id: str
    name: str
    unit: str
    max: int
    period_ms: int
    opened: int
    place: str
    hop: str


class ProvenChain:
    """A chain whose signature ``key`` verifies, without the call that it may have carried.

    Attributes:
        key: The audience key; its ``gone`` ends the cache entry.
        signature: The chain's last signature, a secret.
        rest: The parent's last 0 to 2 bytes, if the chain was cut from a one-shot text.
        identifier: The authenticated identifier.
        nbf: The latest start of validity, ms since the Unix epoch: of the caveats, and ``iat`` less the clock error.
        exp: The earliest end of validity, ms since the Unix epoch.
        targets: All targets whose kill or freeze ends this token.
        holder: Checks that the last holder made a call; None for a bearer token.
        needs_call: Whether a call proof is required.
        needs_signature: Whether that has to be a signature for others to check.
        once: Each ``once`` as place, name (see ``OpenedDischarges.own_name``) and time of its approval.
        fresh_ms: The smallest ``fresh``, ms, or None.
        conditions: Restrictions of the request other than its tool and arguments.
        facts: Agent, holders, session and task, for the decision record.
        parts: The number of its parts, which ``limits.cost_of`` charges.
        refused: The refusal of every request with this chain, or None.
        unmet: The third-party caveats without a discharge, each with its index.
        approvals: Those with a discharge, each with its caveat key, which was passed through the key generator.
        pools: The pools that a call draws from.
        prices: By tool, what ``budgets`` computed of its calls.
        shown: Each ``shown`` after the index of its caveat.
        marks: Its rows about marks; None without one.
        spends: Whether a call draws on a pool or spends a ``once``.
    """

    __slots__ = (
        "_allows",
        "_by_tool",
        "_last_refused",
        "_places",
        "_states",
        "approvals",
        "conditions",
        "exp",
        "facts",
        "fresh_ms",
        "holder",
        "identifier",
        "key",
        "marks",
        "nbf",
        "needs_call",
        "needs_signature",
        "once",
        "parts",
        "pools",
        "prices",
        "refused",
        "rest",
        "shown",
        "signature",
        "spends",
        "targets",
        "unmet",
    )

    conditions: tuple[Condition, ...]
    facts: ChainFacts
    fresh_ms: int | None
    marks: "MarkRows | None"
    needs_call: bool
    needs_signature: bool
    once: tuple[tuple[str, str, int], ...]
    parts: int
    pools: tuple[BudgetPool, ...]
    refused: Refused | None
    shown: tuple[tuple[int, Shown], ...]
    spends: bool
    targets: tuple[str, ...]
    unmet: tuple[tuple[int, "ThirdPartyCaveat"], ...]
    _allows: tuple[Allow, ...]
    _places: tuple[str, ...]

    def __init__(self, key: PreparedKey, identifier: Identifier, signature: bytes, rest: bytes) -> None:
        self.key, self.identifier, self.signature, self.rest = key, identifier, signature, rest
        self.nbf, self.exp = identifier.iat - IAT_AHEAD_MS, identifier.exp
        self.holder: HolderProof | None = None
        self._states: chain.States | None = None
        self._by_tool: dict[str, ToolRules] = {}
        self.prices: dict[str, Any] = {}
        self.approvals: tuple[tuple[ThirdPartyCaveat, bytes], ...] = ()
        self._last_refused: tuple[str | None, Refused] = _NONE_REFUSED

    def has_signed(self, caveat: bytes, signature: bytes) -> bool:
        """Return whether the chain with one more caveat ends in a signature."""
        states = self._states
        if states is None:  # computed at the second call: most chains see only one
            self._states = states = chain.states_of(self.signature)
        return chain.ends_in(states, caveat, signature)

    def judge_holder(self, call: PresentedCall) -> Refused | None:
        """Refuse a call that the last holder has not made; of a bearer token, one with a holder's proof.  SPEC 16.3.

        Args:
            call: The authenticated call.
        """
        if self.holder is not None:
            return self.holder.judge(call, self.needs_signature)
        return NOT_BOUND if call.proof else None

    def is_approved(self, tool: str) -> bool:
        """Return whether the mint's discharge for calls of a tool came with the token.

        Args:
            tool: The tool.
        """
        # By its key: a holder can add a third-party caveat of its own to the token, and discharge that itself.
        return any(
            wanted.binds(tool) and chain.equal(key, self.key.caveat_key(wanted.id)) for wanted, key in self.approvals
        )

    def judge_tool(self, tool: str, args: Mapping[str, Any], written: bytes | None = None) -> Refused | None:
        """Apply every ``allow``: in each, one rule must match the tool and all its arguments.  SPEC 7.

        Args:
            tool: The tool that the caller requests.
            args: Its arguments.
            written: Their ``jcs.flat_jcs``, if it was computed.

        Returns:
            The refusal, or None.
        """
        rules = self._by_tool.get(tool)
        if rules is None or not rules.merged:
            found = self._gather(tool, again=rules is not None)
            if isinstance(found, Refused):
                return found
            rules = found
        if rules.tests > limits.FREE_TESTS and rules.are_too_much(args, written):
            return _TOO_MUCH
        for group in rules.groups:
            for rule in group:
                wrong = wrong_in(rule, args)
                if wrong is None:
                    break
            else:
                first, untold = rules.explain_first(group, self._places, args, wrong or "")
                return _refused(("argument_not_allowed", first, untold))
        return None

    def could_allow(self, tool: str, known: Mapping[str, Any]) -> bool:
        """Return whether the rules allow some call of a tool; for lists of tools, no decision.

        Args:
            tool: The tool.
            known: The arguments that all its calls have here, such as the URI of a resource.
        """
        return all(
            any(rule.matches_tool(tool) and could_permit(rule, known) for rule in allow.compiled)
            for allow in self._allows
        )

    def judge_unseen(self, tool: str, known: Mapping[str, Any], refused: Refused | None) -> Refused | None:
        """Judge a call that may have further arguments, in a body that is not seen.  SPEC 8.5.

        Args:
            tool: The tool that the caller requests.
            known: Its arguments in path and query.
            refused: The result of ``judge_tool`` for them.

        Returns:
            The refusal; None if the rules allow the call whatever its further arguments are.
        """
        if refused is None:
            sure = all(
                any(rule.matches_tool(tool) and permits_with_any(rule, known) for rule in allow.compiled)
                for allow in self._allows
            )
            return None if sure else REQUEST_UNSEEN
        return REQUEST_UNSEEN if refused.code == "argument_not_allowed" and self.could_allow(tool, known) else refused

    def judge_request(self, request: AccessRequest, but: frozenset[str] = frozenset()) -> Refused | None:
        """Apply every condition.

        Args:
            request: The request.
            but: Members of caveats that are not applied.

        Returns:
            The refusal of the first condition that the request does not meet, or None.
        """
        for member, place, operand, judge in self.conditions:
            if member not in but and (refused := judge(place, operand, request)) is not None:
                return refused
        return None

    def _gather(self, tool: str, *, again: bool) -> ToolRules | Refused:
        """Return the rules of a tool and cache them; or the refusal, if no rule allows the tool."""
        last, refused = self._last_refused
        if tool == last:  # an agent often repeats a refused call
            return refused
        rules = gather(tool, self._allows, again=again) if tool else None  # no tool: not even `*` allows it
        if rules is None:
            refused = self._explain_tool(tool)
            if len(tool) <= names.MAX_TOOL_CHARS and len(refused.failures) <= limits.MAX_KEPT_FAILURES:
                self._last_refused = tool, refused
            return refused
        if len(tool) > names.MAX_TOOL_CHARS:
            return rules  # `*` allows a name of any length: a caller could fill the cache with long names
        by_tool = self._by_tool
        if by_tool and not again and len(by_tool) >= limits.tools_for(self.parts):
            by_tool.clear()
        by_tool[tool] = rules
        return rules

    def _explain_tool(self, tool: str) -> Refused:
        came = shorten(tool) if tool else "a request that is no call of a tool"
        failures = [
            Failure(place, "tool", " or ".join([rule.tool for rule in allow.rules]), came)
            for place, allow in zip(self._places, self._allows, strict=True)
            if not any(rule.matches_tool(tool) for rule in allow.compiled)
        ]
        return Refused("tool_not_allowed", tuple(failures))

    def read_caveats(self, packets: tuple[bytes | wire.ThirdPartyPacket, ...], audience: str) -> None:
        """Apply the authenticated caveats, in order, up to the first that can never hold: it sets ``refused``.

        Args:
            packets: The caveats; those of a bound token without what its holders signed.
            audience: The verifier's audience.
        """
        self._take(*read_caveats(packets, self.identifier, audience), ())

    def read_bound(
        self, packets: tuple[bytes | wire.ThirdPartyPacket, ...], audience: str, realm: str, signatures: Sequence[bytes]
    ) -> None:
        """Apply the caveats of a bound token as ``read_caveats`` does, and check what its holders signed.  SPEC 16.2.

        Args:
            packets: The caveats as received.
            audience: The verifier's audience.
            realm: The realm's name.
            signatures: The chain's signature before each of the token's caveats.
        """
        bound = BoundPackets.read(packets)
        said, links = read_caveats(bound.plain, self.identifier, audience)
        hops = tuple(zip(said.hops, said.named, links, strict=True))
        proven = prove_holders(self.identifier, realm, signatures, bound, hops)
        self._take(said, links, proven.holders)
        self.needs_call = True  # without the holder's proof, the text alone would be enough
        if proven.refused is not None:
            self.refused = proven.refused  # of a caveat before the one that ``said`` refuses
        elif self.refused is None and len(said.hops) < (self.identifier.vouched or 0):
            self.refused = UNVOUCHED  # else a thief of the text could add one
        link = links[-1] if links else self.identifier.id
        self.holder = HolderProof(self.key, realm, audience, proven.key, link, self.signature)

    def read_unproven(self, packets: tuple[bytes | wire.ThirdPartyPacket, ...], audience: str) -> None:
        """Apply the caveats as ``read_caveats`` does, for a holder: no signature of a delegation is checked.

        Args:
            packets: The caveats as received.
            audience: The audience.
        """
        bound = self.identifier.holder is not None
        self.read_caveats(BoundPackets.read(packets).plain if bound else packets, audience)

    def _take(self, said: ChainRestrictions, links: Sequence[str], holders: tuple[ProvenHolder, ...]) -> None:
        self.refused = None if said.refused is None else Refused(*said.refused)
        self.parts, self._allows, self._places = said.parts, said.allows, said.places
        self.needs_call, self.needs_signature = said.needs_call, said.needs_signature
        self.fresh_ms, self.conditions = said.fresh_ms, said.conditions
        self.once, self.unmet = said.once, said.unmet
        self.pools = self._pools_of(said, links) if said.spend else ()
        self.marks, self.shown = self._marks_of(said, links) if said.rows else None, said.shown
        self.spends = bool(self.pools or self.once)
        if said.exp < self.exp:
            self.exp = said.exp
        if said.nbf > self.nbf:
            self.nbf = said.nbf
        self._name(said, links, holders)

    def _marks_of(self, said: ChainRestrictions, links: Sequence[str]) -> "MarkRows":
        from arx_verifier.verification.marks import MarkRows  # imported on use: few tokens have one

        return MarkRows(said, links, self.identifier)

    def _pools_of(self, said: ChainRestrictions, links: Sequence[str]) -> tuple[BudgetPool, ...]:
        """Return the pools of a chain, each once, with the least of its limits.  SPEC 17.3."""
        identifier, pools = self.identifier, dict[str, BudgetPool]()
        for index, (name, unit, text, per, at) in said.spend:
            hops = bisect_right(said.hops, index)
            link, holder = (links[hops - 1], said.named[hops - 1]) if hops else ("", identifier.agent)
            pool = pool_id(identifier.task or identifier.session, link, name, unit, per)
            most, opened, known = millionths_of(text), at, pools.get(pool)
            # The first opening counts: with a later one, a holder could fill a pool that the ledger lost.
            if known is not None:
                most, opened = min(most, known.max), min(opened, known.opened)
            pools[pool] = BudgetPool(pool, name, unit, most, PERIOD_MS[per], opened, PLACES[index + 1], holder)
        return tuple(pools.values())

    def _name(self, said: ChainRestrictions, links: Sequence[str], holders: tuple[ProvenHolder, ...]) -> None:
        """Compute the record's facts and the revocation targets from the caveats that were read."""
        identifier = self.identifier
        agent, session, task = identifier.agent, identifier.session, identifier.task
        token, subject, policy = identifier.id, identifier.subject, identifier.policy
        found = ["realm", self.key.target, f"session:{session}", f"link:{token}", *targets.agent_targets(agent)]
        if subject is not None:
            found.append(targets.subject_target(*subject))
        if policy is not None:
            found.append(f"policy:{policy}")
        if task is not None:
            found.append(f"task:{task}")
        self.targets = (*found, *said.targets, *map(_LINK, links))
        named, steps = said.named, said.steps
        if holders:  # the record of a bound chain has no delegation that its holder has not signed
            proven = len(holders) - 1 + (identifier.vouched or 0)
            named, links, steps = named[:proven], links[:proven], steps[:proven]
        self.facts = ChainFacts(  # by position, in the order of its fields: keywords cost three times as much
            agent,
            session,
            named,
            tuple(links),
            task,
            said.tasks,
            token,
            identifier.aud,
            policy,
            identifier.kid,
            "bound" if holders else "bearer",
            identifier.model,
            holders,
            subject,
            about(identifier) if identifier.meta else (),
            steps,
        )

    def __repr__(self) -> str:
        return f"<ProvenChain of session {self.identifier.session}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a ProvenChain holds a live signature and is not pickled")
