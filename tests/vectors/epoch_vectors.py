# SPDX-License-Identifier: Apache-2.0
"""Vectors of targets and the kill epoch (SPEC 10)."""

import hashlib
from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, HOP, HOP2, Token, identifier, links, mint

TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
TO2: dict[str, Any] = {"hop": HOP2, "to": "partner/helper"}


def vectors() -> Vectors:
    """All of this file."""
    token = mint(ANYTHING, TO, {"task": "t-sub"}, TO2, subject=["https://idp.example", "ann"])
    found = {f"killed-{name}": killed(token, target) for name, target in targets().items()}
    approved = mint(ANYTHING, {"operators": ["ada", "bob"]})
    return found | {"killed-operator": killed(approved, "operator:bob")} | others(token)


def targets() -> dict[str, str]:
    """SPEC 10.1: every target that the token names."""
    zero, one, two = links(b"token-id-0000001", HOP, HOP2)
    named = identifier()
    return {
        "realm": "realm",
        "key": "key:k1.0",
        "subject": "subject:" + hashlib.sha256(b"https://idp.example\0ann").hexdigest()[:32],
        "policy": f"policy:{named['policy']}",
        "agent": "agent:acme/support",
        "agent-above": "agent:acme",
        "session": f"session:{named['session']}",
        "task": f"task:{named['task']}",
        "sub-task": "task:t-sub",
        "holder": "agent:acme/worker",
        "last-holder": "agent:partner/helper",
        "last-holder-above": "agent:partner",
        "link-0": f"link:{zero}",
        "link-1": f"link:{one}",
        "link-2": f"link:{two}",
    }


def killed(token: Token, target: str) -> dict[str, Any]:
    """A token born at 7 and a kill of 8."""
    epoch = {"applied": 8, "kills": {target: 8}}
    return vector("10.1", "revoked", token, f"born at 7, {target.split(':')[0]} killed at 8", epoch=epoch)


def others(token: Token) -> Vectors:
    """SPEC 10.2 to 10.4."""
    parent = mint()
    one = links(b"token-id-0000001", HOP)[1]
    return {
        "epoch-other-history": vector(
            "10.2", "revoked", parent, "born in another history", epoch={"incarnation": "another"}
        ),
        "epoch-behind": vector("10.4", "behind", parent, "born at 7, the view is at 6", epoch={"applied": 6}),
        "epoch-frozen": vector(
            "10.2", "frozen", token, "a freeze stands", epoch={"applied": 9, "freezes": {"agent:acme": 3}}
        ),
        "epoch-kill-of-birth": vector(
            "10.2", "grant", parent, "killed at 7, born at 7: the mint saw the kill", epoch={"kills": {"realm": 7}}
        ),
        "epoch-other-targets": vector(
            "10.2",
            "grant",
            token,
            "kills of others",
            epoch={"applied": 9, "freezes": {"agent:acme2": 9}, "kills": {"session:s-other": 8, "agent:acme/w": 9}},
        ),
        "epoch-parent-of-a-killed-link": vector(
            "5.3",
            "grant",
            parent,
            "a kill of a link leaves its parent",
            epoch={"applied": 8, "kills": {f"link:{one}": 8}},
        ),
    }
