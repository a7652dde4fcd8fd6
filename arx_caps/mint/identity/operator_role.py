# SPDX-License-Identifier: Apache-2.0
"""Which role an operator has at this moment; ``policy.roles`` has what a role may do.  CONTROL 1.6, 1.7."""

from typing import NamedTuple

from arx_caps.mint.context import HasDatabase, HasPolicy, LivenessParts
from arx_caps.mint.db.repositories.identity.operators import BY_LOGIN
from arx_caps.mint.db.tables import OperatorRow
from arx_caps.mint.policy.issuers import Subject, roles_for
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.roles import rules_of
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import GrantError, refusal
from arx_verifier.names import matches_tool


class OperatorRole(NamedTuple):
    """The role of an operator at this moment.

    Attributes:
        name: Its name; of an operator by login, the names of all roles, with a comma between.
        rules: Its rules over the mint's actions.
    """

    name: str
    rules: tuple[Rule, ...]


def role_of(mint: HasPolicy, row: OperatorRow) -> OperatorRole:
    """Return the role that an operator has now.

    Args:
        mint: The mint.
        row: The operator's row.

    Raises:
        RequestError: This version does not know the role, so it allows nothing.
        GrantError: ``no_role``: the policy in force gives this person no role.
        UnavailableError: ``no_policy``: the policy would say, and this version refuses it.
    """
    if row.role != BY_LOGIN:
        return OperatorRole(row.role, rules_of(row.role, row.rules))
    # The policy is read at each call: a role that it takes away ends at once.  The claims are those of the last login.
    return role_of_person(mint.policy, Subject(row.issuer or "", row.subject or "", row.claims or {}))


def active_operator(mint: HasDatabase, name: str) -> OperatorRow:
    """Return the row of an operator.

    Raises:
        RevokedError: ``frozen``: the operator was frozen or removed.
    """
    row = mint.db.operators.find(name)
    if row is None or row.status != "active":
        raise refusal("frozen")
    return row


def actions_of_operator(mint: LivenessParts, name: str) -> tuple[str, ...]:
    """Return the patterns of the actions that an operator's role has now; raises as ``role_of`` does.

    Raises:
        RevokedError: ``frozen``: the operator was removed.
    """
    return tuple(rule.tool for rule in role_of(mint, active_operator(mint, name)).rules)


def may(actions: tuple[str, ...], action: str) -> bool:
    """Return whether one of these patterns matches an action; rules may still refuse its arguments."""
    return any(matches_tool(pattern, action) for pattern in actions)


def role_of_person(policy: Policy, person: Subject) -> OperatorRole:
    """Return the role that a policy gives a person; raises as ``role_of`` does."""
    roles = roles_for(person, policy.operators, policy.issuers)
    if not roles:
        raise GrantError(
            "no role: the policy has no [[operator]] for this person; its claims are those of the last login",
            code="no_role",
        )
    return OperatorRole(", ".join(roles), tuple(rule for role in roles for rule in rules_of(role, None)))
