# SPDX-License-Identifier: Apache-2.0
"""The effect of each member of a caveat on a chain's restrictions, and the refusal of a request.  SPEC 6.

``EFFECTS`` has a row for each member beside ``allow``, ``call`` and those of a delegation itself.  A new member is a
field in ``token.caveats`` and a row here.  ``compiled_caveats`` reads ``allow``, ``to`` and ``hop``, and applies the
rows; ``holder_proof`` reads ``key`` and ``sig``.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import arx_verifier.limits as limits
import arx_verifier.verification.reasons as reasons
from arx_verifier.addresses import Network, read_address
from arx_verifier.constraints.rule import WireRule, compile_wire
from arx_verifier.errors import Failure, MalformedTokenError, shorten
from arx_verifier.request import AccessRequest
from arx_verifier.token import caveats
from arx_verifier.token.caveats import MAX_INTEGER
from arx_verifier.verification.reasons import PLACES, Refused

if TYPE_CHECKING:
    from arx_verifier.token.discharge import ThirdPartyCaveat

Spend: TypeAlias = tuple[str, str, str, str, int]  # pool, unit, max, period, opened
Shown: TypeAlias = tuple[tuple[str, int], ...]  # marks, and when each was set
Networks: TypeAlias = tuple[tuple[str, Network], ...]  # as written, and read


class Condition(NamedTuple):
    """A restriction of each request, other than its tool and arguments.

    Attributes:
        member: The member of the caveat.
        place: The caveat's place.
        operand: The member's value, parsed.
        judge: Takes place, operand and request; returns the refusal or None.
    """

    member: str
    place: str
    operand: Any
    judge: Callable[[str, Any, AccessRequest], Refused | None]


class Allow:
    """One ``allow``, as written and compiled; compared by identity.

    Attributes:
        rules: The rules as written.
        compiled: The same rules, compiled, in the same order.
        weight: The number of constraint tests of all rules.
        shared: Whether other chains use this same object.
    """

    __slots__ = ("compiled", "rules", "shared", "weight")

    def __init__(self, rules: tuple[WireRule, ...], shared: bool) -> None:
        """Check and compile rules.

        Args:
            rules: The rules as written.
            shared: Whether other chains use this same object.

        Raises:
            MalformedTokenError: An operand that SPEC 7 does not allow.
        """
        self.rules, self.shared = rules, shared
        self.compiled = tuple([compile_wire(rule) for rule in rules])
        self.weight = sum([rule.weight for rule in self.compiled])


class ChainRestrictions:
    """The restrictions of all caveats of a chain together; they do not depend on its hops.

    Attributes:
        refused: Code and failures of the first caveat that can never hold, or None.  The caveats before it make all
            other attributes.
        parts: An upper bound of the number of rules, operands and members.
        read: How many caveats were read, including a refused one.
        allows: Every ``allow``, in order.
        places: The place of each of them.
        named: The agents that they delegate to.
        hops: The index of the caveat of each of these delegations.
        bound: Whether the chain names its holder's key.
        steps: For each of them the caveats since the one before, as canonical JSON without hops; empty if too long.
        tasks: The sub-tasks that they attenuate to.
        targets: The targets of the sub-tasks, of the operators and of the agents.
        nbf: The latest start of validity, ms since the Unix epoch; below any time if there is none.
        exp: The earliest end of validity, ms since the Unix epoch; above any time if there is none.
        depth: How many delegations may follow.
        delegate_to: Each ``delegate_to`` after the index of its caveat.
        fresh_ms: The smallest ``fresh``, ms, or None.
        conditions: Restrictions of each request.
        operators: The targets of the operators who approved.
        once: Each ``once`` as place, name and time of approval, ms since the Unix epoch.
        unmet: Each third-party caveat after its index.
        needs_call: Whether a call proof is required.
        needs_signature: Whether the holder must sign the call for others to check.
        spend: Each ``spend`` after the index of its caveat.
        rows: Each row about marks after the index of its caveat and the name of its member.
        opened: When the session of these marks was opened, the earliest, ms since the Unix epoch.
        shown: Each ``shown`` after the index of its caveat.
    """

    __slots__ = (
        "allows",
        "bound",
        "conditions",
        "delegate_to",
        "depth",
        "exp",
        "fresh_ms",
        "hops",
        "named",
        "nbf",
        "needs_call",
        "needs_signature",
        "once",
        "opened",
        "operators",
        "parts",
        "places",
        "read",
        "refused",
        "rows",
        "shown",
        "spend",
        "steps",
        "targets",
        "tasks",
        "unmet",
    )

    allows: tuple[Allow, ...]
    hops: tuple[int, ...]
    named: tuple[str, ...]
    parts: int
    places: tuple[str, ...]
    read: int
    targets: tuple[str, ...]

    def __init__(self, depth: int, bound: bool) -> None:
        self.refused: tuple[str, tuple[Failure, ...]] | None = None
        self.nbf, self.exp, self.depth = -MAX_INTEGER, MAX_INTEGER, depth
        self.delegate_to: tuple[tuple[int, Sequence[str]], ...] = ()
        self.fresh_ms: int | None = None
        self.conditions: tuple[Condition, ...] = ()
        self.once: tuple[tuple[str, str, int], ...] = ()
        self.tasks: tuple[str, ...] = ()
        self.operators: tuple[str, ...] = ()
        self.unmet: tuple[tuple[int, ThirdPartyCaveat], ...] = ()
        self.steps: tuple[tuple[str, ...], ...] = ()
        self.bound, self.needs_call, self.needs_signature = bound, False, False
        self.spend: tuple[tuple[int, Spend], ...] = ()
        self.rows: tuple[tuple[int, str, Any], ...] = ()
        self.opened = MAX_INTEGER
        self.shown: tuple[tuple[int, Shown], ...] = ()


def _aud(_said: ChainRestrictions, index: int, audiences: Sequence[str], audience: str) -> None:
    if audience not in audiences:
        raise reasons.wrong_audience(index, audiences, audience)


def _exp(said: ChainRestrictions, _index: int, exp: int, _audience: str) -> None:
    if exp < said.exp:
        said.exp = exp


def _nbf(said: ChainRestrictions, _index: int, nbf: int, _audience: str) -> None:
    if nbf > said.nbf:
        said.nbf = nbf


def _fresh(said: ChainRestrictions, _index: int, fresh_ms: int, _audience: str) -> None:
    said.fresh_ms = fresh_ms if said.fresh_ms is None else min(said.fresh_ms, fresh_ms)


def _net(said: ChainRestrictions, index: int, networks: Networks, _audience: str) -> None:
    said.conditions = (*said.conditions, Condition("net", PLACES[index + 1], networks, judge_peer))


def _read_networks(texts: Sequence[str]) -> Networks:
    return tuple([(text, caveats.read_network(text)) for text in texts])


def judge_peer(place: str, networks: Networks, request: AccessRequest) -> Refused | None:
    """Refuse a peer outside of these networks; an unknown peer is outside."""
    peer = request.peer
    address = _address(peer) if peer is not None else None
    # An address that cannot be read is in no network: a proxy that hides the peer must not open the call.
    if address is not None and any(address in network for _, network in networks):
        return None
    came = shorten(peer) if peer is not None else "no address: the service does not know it"
    failure = Failure(place, "net", " or ".join([text for text, _ in networks]), came)
    return Refused("network_not_allowed", (failure,))


# A dual-stack socket reports an IPv4 peer as ::ffff:a.b.c.d, which no IPv4 network contains: it is unwrapped.
_address = lru_cache(maxsize=1024)(read_address)


def _require(said: ChainRestrictions, index: int, proofs: Sequence[str], _audience: str) -> None:
    if not said.bound and ("holder" in proofs or "signature" in proofs):
        raise reasons.no_holder(index)
    said.needs_call = True
    said.needs_signature = said.needs_signature or "signature" in proofs


def _read_proofs(proofs: Sequence[str]) -> Sequence[str]:
    caveats.check_proofs(proofs)
    return proofs


def _once(said: ChainRestrictions, index: int, once: tuple[str, int], _audience: str) -> None:
    if len(said.once) == limits.MAX_ONCE:
        # Each name stays in the nonce store for a day: a holder must not fill it with one call.
        raise MalformedTokenError(f"a token and its discharges have at most {limits.MAX_ONCE} `once`")
    said.once = (*said.once, (PLACES[index + 1], *once))


def _spend(said: ChainRestrictions, index: int, spend: Spend, _audience: str) -> None:
    if len(said.spend) == limits.MAX_POOLS:
        raise MalformedTokenError(f"a token has at most {limits.MAX_POOLS} `spend`")
    said.spend = (*said.spend, (index, spend))


def _rows(member: str) -> Callable[[ChainRestrictions, int, Any, str], None]:
    def take(said: ChainRestrictions, index: int, rows: Sequence[Any], _audience: str) -> None:
        # A proof permits: of a holder, it would be a right that the policy did not give.
        if index and member == "marks" and any(row[0] != "call" for row in rows):
            raise MalformedTokenError("only the first caveat, the mint's, has rows that set a proof")
        add_rows(said, index, member, rows)

    return take


def add_rows(said: ChainRestrictions, index: int, member: str, rows: Sequence[Any]) -> None:
    """Add rows about marks.

    Args:
        said: The restrictions of the caveats so far.
        index: The index of the caveat.
        member: Its member; ``when`` for a third-party caveat, whose rows are a list of marks and the caveat.
        rows: The rows.

    Raises:
        MalformedTokenError: There are too many.
    """
    if len(said.rows) + len(rows) > limits.MAX_ROWS:
        raise MalformedTokenError(f"a token has at most {limits.MAX_ROWS} rows about marks")
    said.rows = (*said.rows, *[(index, member, row) for row in rows])


def _opened(said: ChainRestrictions, _index: int, opened: int, _audience: str) -> None:
    # The earliest counts: with a later one, a holder could hide that the ledger lost marks.
    said.opened = min(said.opened, opened)


def _shown(said: ChainRestrictions, index: int, shown: Shown, _audience: str) -> None:
    said.shown = (*said.shown, (index, shown))


def _depth(said: ChainRestrictions, _index: int, depth: int, _audience: str) -> None:
    # The least counts: a later caveat can only restrict, whatever number it writes.
    said.depth = min(said.depth, depth)


def _delegate_to(said: ChainRestrictions, index: int, patterns: Sequence[str], _audience: str) -> None:
    # All lists stay, as each must match: a later, wider list must not replace an earlier one.
    said.delegate_to = (*said.delegate_to, (index, patterns))


def _task(said: ChainRestrictions, _index: int, task: str, _audience: str) -> None:
    said.tasks = (*said.tasks, task)


def _operators(said: ChainRestrictions, _index: int, operators: Sequence[str], _audience: str) -> None:
    said.operators = (*said.operators, *[f"operator:{operator}" for operator in operators])


class Effect(NamedTuple):
    """The effect of a member.

    Attributes:
        take: Takes restrictions, the caveat's index, the member's value and the verifier's audience.  Adds the value to
            the restrictions, or raises if it can never hold.
        read: Parses the value first, once for all tokens that have this caveat; None if the value is used as it is.
    """

    take: Callable[[ChainRestrictions, int, Any, str], None]
    read: Callable[[Any], Any] | None = None


# In the order in which the members of one caveat are applied.
EFFECTS: Final[dict[str, Effect]] = {
    "aud": Effect(_aud),
    "exp": Effect(_exp),
    "nbf": Effect(_nbf),
    "fresh": Effect(_fresh),
    "net": Effect(_net, _read_networks),
    "require": Effect(_require, _read_proofs),
    "once": Effect(_once),
    "spend": Effect(_spend),
    "marks": Effect(_rows("marks")),
    "after": Effect(_rows("after")),
    "only_after": Effect(_rows("only_after")),
    "distinct": Effect(_rows("distinct")),
    "opened": Effect(_opened),
    "shown": Effect(_shown),
    "depth": Effect(_depth),
    "delegate_to": Effect(_delegate_to),
    "task": Effect(_task),
    "operators": Effect(_operators),
}
_OF_THE_CAVEAT: Final = {"allow", "call", "hop", "key", "sig", "to"}  # read with the caveat itself
_operands: Final = attrgetter(*EFFECTS)

# A member without an effect would restrict nothing, so the import fails.
if {*EFFECTS, *_OF_THE_CAVEAT} != caveats.KNOWN:
    raise AssertionError(f"members without an effect: {sorted(caveats.KNOWN - EFFECTS.keys() - _OF_THE_CAVEAT)}")


def effects_of(
    caveat: caveats.WireCaveat,
) -> tuple[tuple[Callable[[ChainRestrictions, int, Any, str], None], Any], ...]:
    """Return for each member except ``allow``, ``to`` and ``hop`` its ``take`` and the parsed value.

    Args:
        caveat: The caveat.

    Raises:
        MalformedTokenError: A value that SPEC 6 does not allow.
    """
    found = []
    for effect, value in zip(EFFECTS.values(), _operands(caveat)):  # noqa: B905 - both have a value for each row
        if value is not None:
            take, read = effect
            found.append((take, value if read is None else read(value)))
    return tuple(found)
