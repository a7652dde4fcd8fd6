# SPDX-License-Identifier: Apache-2.0
"""What a task was granted, as it is kept: enough to sign the same again, or less, and nothing that is secret.

A task has one grant when it starts; each extension adds one, and an attenuation puts one in the place of all.  A grant
is named by the first link of its tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.model import TaskGrant
from arx_caps.mint.tasks.token_factory import caveats_of
from arx_verifier.errors import GrantError
from arx_verifier.token import Caveat, count_members, read_caveat

Written = dict[str, tuple[str, ...]]


class StoredGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One grant of a task.

    Attributes:
        template: The policy's name for it.
        params: The template's parameters.
        tools: What the agent asked to be left of the template's tools; None for all.
        depth: How many delegations may follow.
        audiences: Whose tokens the agent got.
        own: By audience, the mint's caveats as canonical JSON.
        attenuated: By audience, the caveats that the agent asked for since.
        exchange: By service, the audiences that it may exchange a token of this grant for.
        approvals: By audience, which calls need an approval, and what that takes.
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

    @classmethod
    def of(cls, grant: TaskGrant, params: Mapping[str, Any], tools: Sequence[str] | None, above: Sequence[str]) -> Self:
        """Keep what the policy grants.

        Args:
            grant: The policy's answer.
            params: The parameters that it was asked with.
            tools: The tools that were asked for.
            above: The tasks that this one is a part of: their end is its own.
        """
        parts = [Caveat(task=task) for task in above]
        return cls(
            template=grant.template,
            params=dict(params),
            tools=tuple(tools) if tools is not None else None,
            depth=grant.depth,
            audiences=tuple(sorted(grant.audiences)),
            exchange=grant.exchange,
            approvals=grant.approvals,
            own={audience: _write((*caveats, *parts)) for audience, caveats in caveats_of(grant).items()},
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what ``write`` wrote."""
        return msgspec.json.decode(text, type=cls)

    def write(self) -> str:
        """Return its text for a column."""
        return msgspec.json.encode(self).decode()

    def caveats(self, audience: str) -> tuple[Caveat, ...]:
        """Return every caveat that a token for an audience begins with."""
        written = (*self.own[audience], *self.attenuated.get(audience, ()))
        return tuple(read_caveat(text.encode()) for text in written)

    def taken(self, service: str, audience: str) -> tuple[Caveat, ...]:
        """Return what was attenuated at a service and holds for a token that it exchanges for another audience."""
        there = (*self.own[audience], *self.attenuated.get(audience, ()))
        return tuple(read_caveat(text.encode()) for text in self.attenuated.get(service, ()) if text not in there)

    def targets(self, service: str) -> tuple[str, ...]:
        """Return for which audiences a service may exchange a token of this grant; both must be left in it."""
        return tuple(each for each in self.exchange.get(service, ()) if {service, each} <= self.own.keys())

    def all_caveats(self) -> dict[str, tuple[Caveat, ...]]:
        """Return by audience every caveat that the agent's tokens begin with."""
        return {audience: self.caveats(audience) for audience in self.audiences}

    def needs(self) -> dict[str, list[tuple[str, ...]]]:
        """Return by audience the tools of each approval that its token requires."""
        return {audience: [terms.tools for terms in entries] for audience, entries in self.approvals.items()}

    def end(self, expires_at: int) -> int:
        """Return when the last of its tokens is over, ms, if by themselves they are at ``expires_at``."""
        ends = [
            min((caveat.exp for caveat in self.caveats(audience) if caveat.exp is not None), default=expires_at)
            for audience in self.audiences
        ]
        return min(max(ends), expires_at)

    def attenuate(self, caveats: Mapping[str, Sequence[Caveat]]) -> Self:
        """Return it with less: audiences that are not named are gone, the others' caveats hold as well.

        Raises:
            GrantError: ``bad_parameters``: an audience that it does not have.
        """
        unknown = sorted(set(caveats) - set(self.audiences))
        if unknown or not caveats:
            raise GrantError(
                f"this task has no token for {', '.join(unknown) or 'nothing'}; name some of "
                f"{', '.join(self.audiences)}: those that are left out end",
                code="bad_parameters",
            )
        attenuated = {audience: self._with(audience, _write(more)) for audience, more in caveats.items()}
        gone = set(self.audiences) - set(caveats)
        return msgspec.structs.replace(
            self,
            audiences=tuple(sorted(caveats)),
            own={audience: own for audience, own in self.own.items() if audience not in gone},
            attenuated={audience: more for audience, more in attenuated.items() if more},
            approvals={audience: entries for audience, entries in self.approvals.items() if audience not in gone},
        )

    def attenuated_like(self, last: Self) -> Self:
        """Return it with the attenuations of another grant of the same template, without their ends.

        Raises:
            GrantError: ``bad_parameters``: nothing of that is in it.
        """
        kept = {
            audience: [_endless(text) for text in last.attenuated.get(audience, ())]
            for audience in last.audiences
            if audience in self.audiences
        }
        return self.attenuate(
            {audience: [each for each in more if each is not None] for audience, more in kept.items()}
        )

    def _with(self, audience: str, more: Sequence[str]) -> tuple[str, ...]:
        """Add caveats; one that stands there already says nothing new."""
        there = (*self.own[audience], *self.attenuated.get(audience, ()))
        new = [text for text in dict.fromkeys(more) if text not in there]
        return (*self.attenuated.get(audience, ()), *new)


def _endless(text: str) -> Caveat | None:
    """Return a caveat without its end, or None where nothing is left of it."""
    caveat = msgspec.structs.replace(read_caveat(text.encode()), exp=None)
    return caveat if count_members(caveat) else None


def _write(caveats: Sequence[Caveat]) -> tuple[str, ...]:
    return tuple(caveat.encode().decode() for caveat in caveats)
