# SPDX-License-Identifier: Apache-2.0
"""Roles of operators: named sets of rules over the mint's own actions.  CONTROL 1.6.

How an operator is authenticated is in ``identity``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from arx_caps.mint.db.repositories.identity.operators import ADMIN
from arx_verifier.constraints.rule import Rule, read_rule
from arx_verifier.errors import MalformedTokenError, RequestError
from arx_verifier.names import matches_tool

CUSTOM: Final = "custom"
MAX_RULES: Final = 32  # of a custom role: every call of its operator checks each of them
APPROVE: Final = "arx.approve"
WRITE_OPERATORS: Final = "arx.operators.write"

OPEN_CONSOLE: Final = "arx.console.open"  # every role has it: in the console too, an operator may do what the role has

_READS: Final = (
    "arx.agents.read",
    "arx.approvals.read",
    "arx.audit.read",
    "arx.clients.read",
    "arx.connections.read",
    OPEN_CONSOLE,
    "arx.freezes.read",
    "arx.keys.read",
    "arx.kills.preview",
    "arx.kills.read",
    "arx.operators.read",
    "arx.policy.read",
    "arx.services.read",
    "arx.sessions.read",
    "arx.status.read",
    "arx.tasks.read",
    "arx.webhooks.read",
)
# An approver must see the work that an approval is for.
_WORK_READS: Final = (OPEN_CONSOLE, "arx.policy.read", "arx.sessions.read", "arx.status.read", "arx.tasks.read")
_ENDS: Final = (
    "arx.connections.end",
    "arx.console.end",
    "arx.freeze",
    "arx.kill",
    "arx.sessions.end",
    "arx.tasks.finish",
)

# Roles are looked up by name at each call and never copied into a token, so that a right that is taken away ends at
# once.  ``kill-only`` can be left with a pager: its key can stop agents, and see what a kill would end and has ended.
ROLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        ADMIN: ("arx.*",),
        "read-only": _READS,
        "kill-only": ("arx.kill", "arx.kills.preview", "arx.kills.read", OPEN_CONSOLE),
        "responder": (*_ENDS, "arx.thaw", *_READS),
        "approver": (APPROVE, "arx.approvals.read", *_WORK_READS),
        "policy": ("arx.policy.write", "arx.policy.read", "arx.status.read", OPEN_CONSOLE),
        "keys": (
            *("arx.keys.write", "arx.keys.read", "arx.services.write", "arx.services.read", "arx.status.read"),
            OPEN_CONSOLE,
        ),
        "agents": (
            *("arx.agents.write", "arx.agents.read", "arx.clients.write", "arx.clients.read"),
            *("arx.sessions.read", "arx.tasks.read", "arx.status.read", OPEN_CONSOLE),
        ),
    }
)


def rules_of(role: str, written: str | None) -> tuple[Rule, ...]:
    """Return the rules of an operator's row.

    Args:
        role: A name of ``ROLES``, or ``custom``.
        written: The rules of a custom role as JSON, as the database has them.

    Raises:
        RequestError: This version does not know the role, so it allows nothing.
    """
    if role in ROLES:
        return tuple(Rule(tool=action) for action in ROLES[role])
    if role != CUSTOM or written is None:
        # A newer version may have stored it: an unknown role must not become a known one with other rights.
        raise RequestError(f"unknown role: expected one of {', '.join(ROLES)}, got {role[:32]!r}")
    return tuple(map(read_rule, msgspec.json.decode(written, type=list[dict[str, Any]])))


def choose(role: str | None, rules: Sequence[Mapping[str, Any]] | None) -> tuple[str, str | None]:
    """Return the name and the rules of a role, as they are stored, or refuse them.

    Args:
        role: A name of ``ROLES``, or None for a custom role.
        rules: The rules of a custom role, each ``{"tool": action, "args": …}``; None for a named one.

    Returns:
        The role's name, and the rules as JSON; None for a named role.

    Raises:
        RequestError: Neither or both were given, the role is unknown, or a rule is not allowed.
    """
    if (role is None) == (rules is None):
        raise RequestError("invalid role: expected either role or rules; send exactly one")
    if rules is None:
        if role not in ROLES:
            raise RequestError(f"unknown role: expected one of {', '.join(ROLES)}; for others, send rules")
        return str(role), None
    if not 0 < len(rules) <= MAX_RULES:
        raise RequestError(f"invalid rules: expected 1 to {MAX_RULES}, got {len(rules)}")
    for rule in rules:
        _check(rule)
    return CUSTOM, msgspec.json.encode(list(rules), order="sorted").decode()


def actions_of(rules: Sequence[Rule]) -> list[str]:
    """Return the patterns of actions that rules allow, without their constraints on arguments."""
    return list(dict.fromkeys(rule.tool for rule in rules))


def _check(written: Mapping[str, Any]) -> None:
    try:
        rule = read_rule(dict(written))
    except MalformedTokenError as error:
        raise RequestError(f"invalid rule: {error}") from error
    # A rule for another tool would never match: these rules judge the mint's own actions alone.
    if not rule.tool.startswith("arx."):
        raise RequestError(
            "invalid rule: expected an action of the mint as the tool, such as arx.kill or arx.sessions.*"
        )
    if rule.tool == WRITE_OPERATORS or matches_tool(rule.tool, WRITE_OPERATORS):
        # An operator that may make operators could make itself an administrator.
        raise RequestError(f"invalid rule: only the role {ADMIN} may have {WRITE_OPERATORS}")
