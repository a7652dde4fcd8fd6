# SPDX-License-Identifier: Apache-2.0
"""The pages of the console, by name, with addresses in the busy realm."""

from collections.abc import Callable, Mapping
from typing import Any, Final

PAGES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "now": lambda facts: "/console/now",
    "decisions": lambda facts: "/console/decisions",
    "decision": lambda facts: f"/console/decisions/{facts['refused']}",
    "top": lambda facts: "/console/top?since=24h",
    "search": lambda facts: "/console/search?reason=deny&since=30d",
    "check": lambda facts: "/console/search/check",
    "sessions": lambda facts: "/console/sessions",
    "session": lambda facts: f"/console/sessions/{facts['tree_small']}",
    "session-denied": lambda facts: f"/console/sessions/{facts['tree_large']}?outcome=deny&zoom=decisions",
    "session-budgets": lambda facts: f"/console/sessions/{facts['spender']}",
    "budgets": lambda facts: "/console/budgets",
    "budget": lambda facts: f"/console/budgets/{facts['pool']}",
    "agents": lambda facts: "/console/agents",
    "agent": lambda facts: "/console/agents/acme/support/triage",
    "session-tree": lambda facts: f"/console/sessions/{facts['tree_large']}",
    "approvals": lambda facts: "/console/approvals",
    "approval": lambda facts: f"/console/approvals/{facts['half']}",
    "kills": lambda facts: "/console/kills",
    "kill": lambda facts: f"/console/kills/{facts['kill']}",
    "kill-dialog": lambda facts: f"/console/kill?target=session:{facts['tree_large']}",
    "frozen": lambda facts: "/console/frozen",
    "verifiers": lambda facts: "/console/verifiers",
    "policy": lambda facts: "/console/policy",
    "keys": lambda facts: "/console/keys",
    "notifications": lambda facts: "/console/notifications",
    "sign-ins": lambda facts: "/console/sign-ins",
    "sign-in": lambda facts: "/console/sign-in?again=1",
}
