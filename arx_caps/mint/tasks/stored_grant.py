# SPDX-License-Identifier: Apache-2.0
"""A task's grant as a row keeps it: enough to sign it again or attenuated, and no secret."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.model import TaskGrant
from arx_caps.mint.tasks.token_factory import caveats_of
from arx_verifier.amounts import read_amount
from arx_verifier.errors import GrantError
from arx_verifier.ledger.pools import PERIOD_MS, PoolDraw, pool_id
from arx_verifier.token.caveats import Caveat, count_members, read_caveat

Written = dict[str, tuple[str, ...]]


# A task has one grant at its start. An extension adds one, and an attenuation replaces all by one. The first link of
# its tokens names a grant.
class StoredGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One grant of a task.

    Attributes:
        template: The policy's template.
        params: The template's parameters.
        tools: The tools that the agent asked for; None for all of the template.
        depth: How many delegations may follow.
        audiences: The audiences that the agent got tokens for.
        own: By audience, the mint's caveats as canonical JSON.
        attenuated: By audience, the caveats that the agent added at the mint.
        exchange: By service, the audiences that it may exchange a token of this grant for.
        approvals: By audience, the calls that need an approval, and its terms.
        holder: The first holder's key of a bound grant, 43 characters; None for bearer tokens.
    """

    template: str
    params: dict[str, Any]
    tools: tuple[str, ...] | None
    depth: int
    audiences: tuple[str, ...]
    own: Written
    attenuated: Written = {}
    exchange: Written = {}
    approvals: dict[str, tuple[ApprovalTerms, ...]] = {}
    holder: str | None = None

    @classmethod
    def of(
        cls,
        grant: TaskGrant,
        params: Mapping[str, Any],
        tools: Sequence[str] | None,
        above: Sequence[str],
        holder: str | None,
        opened: int,
        session_opened: int,
    ) -> Self:
        """Return the policy's grant in its stored form.

        Args:
            grant: The policy's grant.
            params: The parameters of the request.
            tools: The tools of the request.
            above: Ids of the tasks above this one, whose end is its own.
            holder: The first holder's key, if the grant is bound.
            opened: When the task was started, ms since the Unix epoch; an extension opens no budget anew.
            session_opened: When its session was opened, ms since the Unix epoch.
        """
        parts = [Caveat(task=task) for task in above]
        return cls(
            template=grant.template,
            params=dict(params),
            tools=tuple(tools) if tools is not None else None,
            depth=grant.depth,
            audiences=tuple(sorted(grant.audiences)),
            exchange=grant.exchange,
            approvals={
                audience: tuple([replace(terms, opened=session_opened) if terms.when else terms for terms in entries])
                for audience, entries in grant.approvals.items()
            },
            holder=holder,
            own={
                audience: _write((*caveats, *parts))
                for audience, caveats in caveats_of(grant, opened, session_opened).items()
            },
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse the text of ``write``."""
        return msgspec.json.decode(text, type=cls)

    def write(self) -> str:
        """Return the text for a column, as JSON."""
        return msgspec.json.encode(self).decode()

    def caveats(self, audience: str) -> tuple[Caveat, ...]:
        """Return all caveats that the mint writes into a token for an audience."""
        written = (*self.own[audience], *self.attenuated.get(audience, ()))
        return tuple(read_caveat(text.encode()) for text in written)

    def needs_signature(self, audience: str) -> bool:
        """Return whether a call at an audience needs its holder's signature.  SPEC 16.3."""
        return any("signature" in (caveat.require or ()) for caveat in self.caveats(audience))

    def taken(self, service: str, audience: str) -> tuple[Caveat, ...]:
        """Return the attenuations at a service that must hold in a token it exchanges.

        Args:
            service: The service.
            audience: The audience of the exchanged token.
        """
        written = (*self.own[audience], *self.attenuated.get(audience, ()))
        return tuple(read_caveat(text.encode()) for text in self.attenuated.get(service, ()) if text not in written)

    def targets(self, service: str) -> tuple[str, ...]:
        """Return the audiences for which a service may exchange a token of this grant."""
        return tuple(other for other in self.exchange.get(service, ()) if {service, other} <= self.own.keys())

    def all_caveats(self) -> dict[str, tuple[Caveat, ...]]:
        """Return by audience all caveats of the agent's tokens."""
        return {audience: self.caveats(audience) for audience in self.audiences}

    def pools(self, task: str) -> dict[str, PoolDraw]:
        """Return by identity the pools that the mint opened in it, each with its least ``max``.  SPEC 17.3.

        Args:
            task: The id of its task.
        """
        pools: dict[str, PoolDraw] = {}
        for caveat in (caveat for audience in self.audiences for caveat in self.caveats(audience)):
            if caveat.spend is not None:
                name, unit, most, per, opened = caveat.spend
                pool = pool_id(task, "", name, unit, per)
                known = pools.get(pool)
                least, first = (read_amount(most), opened) if known is None else (known.max, known.opened)
                pools[pool] = PoolDraw(pool, min(least, read_amount(most)), PERIOD_MS[per], min(first, opened), 0, 0)
        return pools

    def end(self, expires_at: int) -> int:
        """Return when the last of its tokens expires, in ms since the Unix epoch.

        Args:
            expires_at: When they expire without their caveats, in ms since the Unix epoch.
        """
        ends = [
            min((caveat.exp for caveat in self.caveats(audience) if caveat.exp is not None), default=expires_at)
            for audience in self.audiences
        ]
        return min(max(ends), expires_at)

    def attenuate(self, caveats: Mapping[str, Sequence[Caveat]]) -> Self:
        """Return the grant with added caveats, and without the audiences that have none.

        Args:
            caveats: By audience that remains, the caveats to add.

        Raises:
            GrantError: ``bad_parameters``: it has no such audience.
        """
        unknown = sorted(set(caveats) - set(self.audiences))
        if unknown or not caveats:
            raise GrantError(
                f"this task has no token for {', '.join(unknown) or 'nothing'}; name some of "
                f"{', '.join(self.audiences)}: those that you omit end",
                code="bad_parameters",
            )
        attenuated = {audience: self._with(audience, _write(more)) for audience, more in caveats.items()}
        gone = set(self.audiences) - set(caveats)
        return replace(
            self,
            audiences=tuple(sorted(caveats)),
            own={audience: own for audience, own in self.own.items() if audience not in gone},
            attenuated={audience: more for audience, more in attenuated.items() if more},
            approvals={audience: entries for audience, entries in self.approvals.items() if audience not in gone},
        )

    def attenuated_like(self, last: Self) -> Self:
        """Return the grant with the attenuations of another one, without their expiries.

        Raises:
            GrantError: ``bad_parameters``: no audience would be left.
        """
        kept = {
            audience: [_endless(text) for text in last.attenuated.get(audience, ())]
            for audience in last.audiences
            if audience in self.audiences
        }
        return self.attenuate(
            {audience: [caveat for caveat in more if caveat is not None] for audience, more in kept.items()}
        )

    def _with(self, audience: str, more: Sequence[str]) -> tuple[str, ...]:
        """Return the attenuations of an audience with added caveats, without duplicates."""
        written = (*self.own[audience], *self.attenuated.get(audience, ()))
        new = [text for text in dict.fromkeys(more) if text not in written]
        return (*self.attenuated.get(audience, ()), *new)


def _endless(text: str) -> Caveat | None:
    """Return a caveat without its expiry, or None if it has no other member."""
    caveat = replace(read_caveat(text.encode()), exp=None)
    return caveat if count_members(caveat) else None


def _write(caveats: Sequence[Caveat]) -> tuple[str, ...]:
    return tuple(caveat.encode().decode() for caveat in caveats)
