# SPDX-License-Identifier: Apache-2.0
"""First-party caveats: their members, and the strict parser of their one form.  SPEC 6.

``Caveat`` is one canonical JSON object; ``read_caveat`` accepts exactly that form.  ``verification`` applies the
members once a chain is authenticated.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

import arx_verifier.addresses as addresses
import arx_verifier.amounts as amounts
import arx_verifier.jcs as jcs
import arx_verifier.names as names
import arx_verifier.token.wire as wire
from arx_verifier.constraints.constraint import Written
from arx_verifier.constraints.rule import Rule, WireRule, compile_rule
from arx_verifier.errors import MalformedTokenError, UnknownCaveatError

MAX_INTEGER: Final = 2**53 - 1
MAX_HOPS: Final = 16
MAX_FRESH_MS: Final = 60_000  # above any lease: a larger number would promise what the lease already keeps
PROOFS: Final = ("call", "holder", "signature")

_T = TypeVar("_T")

Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Path = Annotated[str, Meta(min_length=1, max_length=64)]
Pattern = Annotated[str, Meta(min_length=1, max_length=96)]
Audience = Annotated[str, Meta(min_length=1, max_length=64)]
OF_HOLDERS: Final = Meta(extra={"of": "holders"})  # marks a member about a token's holders; a discharge cannot have it
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
Operator = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
Unit = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,15}\Z")]
MAX_ROW_ITEMS: Final = 32
MAX_ROW_NAMES: Final = 8
MAX_VALUES: Final = 1000
Texts = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1, max_length=MAX_ROW_ITEMS)]
Per = Literal["session", "task"]
# SPEC 21.2: what sets the mark, the mark, what it is of, and tools or services.
MarkRow = tuple[Literal["call", "done", "from"], Name, Per, Texts]
MarkNames = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_ROW_NAMES)]
AfterRow = tuple[MarkNames, Texts]
OnlyAfterRow = tuple[Name, Natural, Texts]
DistinctRow = tuple[
    Texts,
    Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1, max_length=MAX_ROW_NAMES)],
    Annotated[int, Meta(ge=1, le=MAX_VALUES)],
    Per,
]
Most = Annotated[str, Meta(pattern=r"^(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{0,5}[1-9])?\Z")]


# Unknown members are forbidden: an old verifier must not ignore a restriction that a newer holder added.
class _Members(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every member of a caveat except ``allow``; see ``Caveat``."""

    after: Annotated[Annotated[tuple[AfterRow, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    aud: Annotated[tuple[Audience, ...], Meta(min_length=1)] | None = None
    call: Annotated[tuple[str, Natural, str] | None, OF_HOLDERS] = None
    depth: Annotated[Annotated[int, Meta(ge=0, le=MAX_HOPS)] | None, OF_HOLDERS] = None
    distinct: Annotated[Annotated[tuple[DistinctRow, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    exp: Natural | None = None
    fresh: Annotated[int, Meta(ge=0, le=MAX_FRESH_MS)] | None = None
    delegate_to: Annotated[Annotated[tuple[Pattern, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    hop: Annotated[Annotated[str, Meta(min_length=12, max_length=12)] | None, OF_HOLDERS] = None
    key: Annotated[Annotated[str, Meta(min_length=43, max_length=43)] | None, OF_HOLDERS] = None
    marks: Annotated[Annotated[tuple[MarkRow, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    nbf: Natural | None = None
    net: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    once: tuple[Name, Natural] | None = None
    only_after: Annotated[Annotated[tuple[OnlyAfterRow, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    opened: Annotated[Natural | None, OF_HOLDERS] = None
    operators: Annotated[tuple[Operator, ...], Meta(min_length=1)] | None = None
    require: Annotated[Annotated[tuple[str, ...], Meta(min_length=1)] | None, OF_HOLDERS] = None
    shown: tuple[tuple[Name, Natural], ...] | None = None
    sig: Annotated[Annotated[str, Meta(min_length=86, max_length=86)] | None, OF_HOLDERS] = None
    spend: Annotated[tuple[Name, Unit, Most, Literal["task", "hour", "day"], Natural] | None, OF_HOLDERS] = None
    task: Name | None = None
    to: Annotated[Path | None, OF_HOLDERS] = None

    def check_operands(self) -> Self:
        """Check all members except ``allow``, ``hop`` and ``require``, which their own readers check.

        Returns:
            The caveat itself.

        Raises:
            MalformedTokenError: A member's value breaks SPEC 6.
        """
        if (self.to is None) != (self.hop is None):
            raise MalformedTokenError("`to` and `hop` come together")
        if (self.key is None) != (self.sig is None) or (self.key is not None and self.hop is None):
            raise MalformedTokenError("`key` and `sig` come together, and with `to`")
        if self.to is not None and not names.is_agent_path(self.to):
            raise MalformedTokenError("`to` is an agent path such as acme/worker")
        for pattern in self.delegate_to or ():
            if not names.is_path_pattern(pattern):
                raise MalformedTokenError("`delegate_to` holds patterns such as acme/* or acme/**")
        if self.spend is not None and not amounts.is_amount(self.spend[2]):
            raise MalformedTokenError("`spend` has a pool of at most 1000000000")
        for network in self.net or ():
            read_network(network)
        self._check_rows()
        return self

    def _check_rows(self) -> None:
        """Check the rows about marks.  SPEC 21.2."""
        rows = self.marks or self.after or self.only_after or self.distinct
        if (rows is None) != (self.opened is None):
            raise MalformedTokenError("rows about marks and `opened` come together")
        if rows is None:
            return
        services = [name for row in self.marks or () if row[0] == "from" for name in row[3]]
        tools = [tool for row in self.marks or () if row[0] != "from" for tool in row[3]]
        tools += [tool for row in self.after or () for tool in row[1]]
        tools += [tool for row in self.only_after or () for tool in row[2]]
        tools += [tool for row in self.distinct or () for tool in row[0]]
        if not all(map(names.is_tool_pattern, tools)):
            raise MalformedTokenError("rows about marks name tools such as orders.get, or patterns such as orders.*")
        if not all(map(names.is_audience, services)):
            raise MalformedTokenError("`from` names services, the audiences that may prove the mark")


class Caveat(_Members, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Restrictions that all hold together.  Every member can only restrict.

    Attributes:
        after: Marks and tools: a call of such a tool is refused while all these marks are set.
        allow: The tool and its arguments must match one of these rules.
        aud: The verifier's audience must be one of these.
        call: Digest, time and nonce of the one call this token is for; alone and last.
        depth: How many delegations may follow.
        distinct: Tools, arguments, number and ``session`` or ``task``: their calls have at most so many different
            values of these arguments.
        exp: End of validity, ms since the Unix epoch, exclusive.
        fresh: The verifier's view of the kill epoch must be younger than this, ms; 0: read after the request arrived.
        delegate_to: Each agent that a later delegation names must match one of these path patterns.
        hop: 9 random bytes, base64url; with ``to``.
        key: The next holder's Ed25519 public key, 43 characters; in a delegation of a bound token.
        marks: What sets a mark (``call``, ``done`` or ``from``), the mark, what it is of, and tools or services.
        nbf: Start of validity, ms since the Unix epoch, inclusive.
        net: The peer's address must be in one of these networks (CIDR).
        once: A name, and the time of its approval, ms since the Unix epoch: one call of the task may use this name.
        only_after: A proof, how long it counts in ms (0: no end), and tools: their calls need it.
        opened: When the session was opened, ms since the Unix epoch; with rows about marks.
        operators: The operators who approved the call: a kill or freeze of one of them also ends this token.
        require: These proofs are needed: ``call``, a ``call`` follows; ``holder``, the token is bound to its holder's
            key; ``signature``, its holder signed the call for others to check.
        shown: The warnings that an approver was shown, each with the time at which it was set, ms since the Unix epoch;
            in a discharge.
        sig: The current holder's signature of the delegation, 86 characters; with ``key``.
        spend: Pool, unit, max, period (``task``, ``hour`` or ``day``) and time of opening, ms since the Unix epoch: a
            call draws its cost in this unit from the pool.
        task: A sub-task whose end also ends this token.
        to: The agent that this token was delegated to; with ``hop``.

    Raises:
        AttenuationError: No member, or one that SPEC 6 does not allow.
    """

    allow: Annotated[tuple[Rule, ...], Meta(min_length=1)] | None = None

    def encode(self) -> bytes:
        """Return the canonical JSON.  SPEC 3.

        Raises:
            MalformedTokenError: The caveat has no member, or a value that no verifier accepts.
        """
        raw = jcs.encode(self)
        if len(raw) == 2:  # b"{}"
            raise MalformedTokenError("an empty caveat restricts nothing and is refused")
        return raw

    def delegated_to(self, to: str, hop: str, key: str | None = None, sig: str | None = None) -> Self:
        """Return the same restrictions as a delegation.  SPEC 5.2.

        Args:
            to: The next holder's agent path.
            hop: 9 random bytes in 12 characters of base64url.
            key: The next holder's key, for a bound token.
            sig: The current holder's signature, for a bound token.
        """
        return msgspec.structs.replace(self, to=to, hop=hop, key=key, sig=sig)

    def check_written(self) -> None:
        """Raise for what ``check`` refuses and for a caveat without a member; cache nothing.

        Raises:
            MalformedTokenError: No member, or a member's value breaks SPEC 6.
            UnknownCaveatError: ``require`` names an unknown proof.
        """
        if count_members(self) == 0:
            raise MalformedTokenError("an empty caveat restricts nothing and is refused")
        for rule in self.allow or ():
            rule.check_written()
        if self.hop is not None:
            canonical_hop(self.hop)
        self.check_operands()
        check_proofs(self.require or ())

    def check(self) -> Self:
        """Check what the types cannot express; a holder does so before it delegates what every verifier would refuse.

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
        check_proofs(self.check_operands().require or ())
        return self


def spend_caveats(pool: str, budget: Mapping[str, amounts.Amount], per: str, opened: int) -> tuple[Caveat, ...]:
    """Return a caveat for each unit of a budget.  SPEC 17.1.

    Args:
        pool: The pools' name.
        budget: What each pool has, by unit: a number or decimal text.
        per: ``task``, ``hour`` or ``day``.
        opened: When the pools are opened, ms since the Unix epoch.

    Raises:
        MalformedTokenError: A unit or an amount is wrong.
    """
    caveats = []
    for unit, amount in budget.items():
        try:
            most = amounts.amount_text(amounts.read_amount(amount))
        except ValueError as error:
            raise MalformedTokenError(f"budget: {unit}: {error}, got {str(amount)[:40]}") from None
        if not amounts.is_unit(unit):
            raise MalformedTokenError(f"budget: a unit is named by [a-z][a-z0-9_]*, not by {str(unit)[:40]!r}")
        caveats.append(Caveat(spend=(pool, unit, most, per, opened)))  # type: ignore[arg-type]  # checked as written
    return tuple(caveats)


class WireCaveat(_Members, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An authenticated caveat, with rules whose constraints stay bytes until they are compiled."""

    allow: Annotated[tuple[WireRule, ...], Meta(min_length=1)] | None = None


def count_members(caveat: _Members) -> int:
    """Return the number of members that a caveat has."""
    values = msgspec.structs.astuple(caveat)
    return len(values) - values.count(None)


KNOWN: Final = frozenset(Caveat.__struct_fields__)
ABOUT_HOLDERS: Final = tuple(
    [name for name, kind in _Members.__annotations__.items() if OF_HOLDERS in getattr(kind, "__metadata__", ())]
)
_CAVEAT: Final = msgspec.json.Decoder(Caveat)
_WIRE: Final = msgspec.json.Decoder(WireCaveat)


def read_caveat(raw: bytes) -> Caveat:
    """Parse one caveat whole, for a person or a holder.

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
    """Parse one authenticated caveat without compiling its rules; see ``read_caveat``.

    Args:
        raw: The caveat's bytes as received.

    Raises:
        UnknownCaveatError: It has a member that this version does not know.
        MalformedTokenError: As ``read_caveat``, except for mistakes inside ``allow``, ``hop`` and ``require``.
    """
    return _read(_WIRE, raw).check_operands()


def _read(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T:
    caveat = jcs.decode(decoder, raw, _unknown)
    if len(raw) == 2:
        raise MalformedTokenError("an empty caveat restricts nothing and is refused")
    return caveat


def _unknown(raw: bytes) -> UnknownCaveatError | None:
    """Return an error with the unknown members of a caveat, or None if it has none or is not canonical JSON."""
    # The form is judged first: no reader needs to know members to find out that the bytes are not canonical.
    value = jcs.read_canonical(raw)
    # A holder chose these names: their number and length in the error are bounded, and they are escaped.
    unknown = sorted(value.keys() - KNOWN)[:4] if isinstance(value, dict) else ()
    if not unknown:
        return None
    return UnknownCaveatError(f"this version does not know the caveat {', '.join([ascii(n)[:24] for n in unknown])}")


def check_proofs(proofs: Sequence[str]) -> None:
    """Check the proofs that ``require`` names; the last check of a caveat's form.

    Args:
        proofs: Their names.

    Raises:
        UnknownCaveatError: One is unknown.
    """
    for proof in proofs:
        if proof not in PROOFS:
            # A proof that is ignored would be a restriction that is ignored.
            raise UnknownCaveatError(f"`require` names a proof that this version does not know: {proof[:20]!r}")


def read_network(text: str) -> addresses.Network:
    """Parse a network of ``net``.

    Args:
        text: For example ``10.0.0.0/8``.

    Raises:
        MalformedTokenError: As ``addresses.read_network`` raises ``ValueError``.
    """
    try:
        return addresses.read_network(text)
    except ValueError as error:
        raise MalformedTokenError(f"`net`: {error}") from None


def canonical_hop(text: str) -> bytes:
    """Return the 9 bytes of a hop's 12 characters.

    Raises:
        MalformedTokenError: It is not canonical base64url.
    """
    return wire.bytes_of(text)  # 9 bytes fill 12 characters exactly, so there is one spelling
