# SPDX-License-Identifier: Apache-2.0
"""What operators may do: named sets of rules over the mint's own actions.  CONTROL 1.6.

A role belongs to the operator and not to a token: it is looked at again at each call, so that what was taken away is
gone at once, and a key whose role is ``kill-only`` can never buy more.  Who is an operator is not decided here.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from arx_caps.mint.db.repositories.operators import ADMIN
from arx_verifier.constraints import Rule, read_rule
from arx_verifier.errors import MalformedTokenError, RequestError
from arx_verifier.names import matches_tool

CUSTOM: Final = "custom"
MAX_RULES: Final = 32
APPROVE: Final = "arx.approve"
WRITE_OPERATORS: Final = "arx.operators.write"

_READS: Final = (
    "arx.agents.read",
    "arx.approvals.read",
    "arx.audit.read",
    "arx.keys.read",
    "arx.operators.read",
    "arx.policy.read",
    "arx.services.read",
    "arx.sessions.read",
    "arx.status.read",
    "arx.tasks.read",
)
# What an approver looks at to know what is asked for.
_WORK_READS: Final = ("arx.policy.read", "arx.sessions.read", "arx.status.read", "arx.tasks.read")
_ENDS: Final = ("arx.freeze", "arx.kill", "arx.sessions.end", "arx.tasks.finish")

ROLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        ADMIN: ("arx.*",),
        "read-only": _READS,
        "kill-only": ("arx.kill",),
        "responder": (*_ENDS, "arx.thaw", *_READS),
        "approver": (APPROVE, "arx.approvals.read", *_WORK_READS),
        "policy": ("arx.policy.write", "arx.policy.read", "arx.status.read"),
        "keys": ("arx.keys.write", "arx.keys.read", "arx.services.write", "arx.services.read", "arx.status.read"),
        "agents": ("arx.agents.write", "arx.agents.read", "arx.sessions.read", "arx.tasks.read", "arx.status.read"),
    }
)


def rules_of(role: str, written: str | None) -> tuple[Rule, ...]:
    """Return the rules of an operator's row.

    Args:
        role: A name of ``ROLES``, or ``custom``.
        written: The rules of a custom role, as they are stored.

    Raises:
        RequestError: The role is not known to this version: nothing is allowed.
    """
    if role in ROLES:
        return tuple(Rule(tool=action) for action in ROLES[role])
    if role != CUSTOM or written is None:
        raise RequestError(f"the role {role[:32]!r} is not known here")
    return tuple(map(read_rule, msgspec.json.decode(written, type=list[dict[str, Any]])))


def choose(role: str | None, rules: Sequence[Mapping[str, Any]] | None) -> tuple[str, str | None]:
    """Check what somebody wants an operator to be.

    Args:
        role: A name of ``ROLES``, or None with rules of one's own.
        rules: Those rules, ``{"tool": action, "args": …}``.

    Returns:
        The role's name, and the rules as they are stored.

    Raises:
        RequestError: Neither or both were given, the role is unknown, or a rule cannot be used.
    """
    if (role is None) == (rules is None):
        raise RequestError("say either role or rules")
    if rules is None:
        if role not in ROLES:
            raise RequestError(f"role is one of {', '.join(ROLES)}; or say rules")
        return str(role), None
    if not 0 < len(rules) <= MAX_RULES:
        raise RequestError(f"rules has 1 to {MAX_RULES} members")
    for rule in rules:
        _check(rule)
    return CUSTOM, msgspec.json.encode(list(rules), order="sorted").decode()


def actions_of(rules: Sequence[Rule]) -> list[str]:
    """Say in patterns of actions what rules allow, with what they require of arguments left out."""
    return list(dict.fromkeys(rule.tool for rule in rules))


def _check(written: Mapping[str, Any]) -> None:
    try:
        rule = read_rule(dict(written))
    except MalformedTokenError as error:
        raise RequestError(f"a rule cannot be used: {error}") from error
    if not rule.tool.startswith("arx."):
        raise RequestError("a rule's tool is an action of the mint such as arx.kill, or arx.sessions.*")
    if rule.tool == WRITE_OPERATORS or matches_tool(rule.tool, WRITE_OPERATORS):
        # Whoever may make operators may make one that may do everything.
        raise RequestError(f"{WRITE_OPERATORS} is for the role {ADMIN} alone")
