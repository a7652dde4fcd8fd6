# SPDX-License-Identifier: Apache-2.0
"""What an agent needs: sessions at the mint, tasks, delegations, approvals, signed calls.  The front door.

Each name is imported at its first use: a sub-agent that attenuates and delegates a task loads no HTTP client.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arx_caps.agent.agent import Agent, Workload
    from arx_caps.agent.approval import Approval
    from arx_caps.agent.auth import ArxAuth
    from arx_caps.agent.bundle import Bundle
    from arx_caps.agent.outline import holder_of, links_of
    from arx_caps.agent.session import Session
    from arx_caps.agent.started import StartedTask
    from arx_caps.agent.task import Task

_MODULE_OF = {
    "Agent": "agent",
    "Approval": "approval",
    "ArxAuth": "auth",
    "Bundle": "bundle",
    "Session": "session",
    "StartedTask": "started",
    "Task": "task",
    "Workload": "agent",
    "holder_of": "outline",
    "links_of": "outline",
}

__all__ = [
    "Agent",
    "Approval",
    "ArxAuth",
    "Bundle",
    "Session",
    "StartedTask",
    "Task",
    "Workload",
    "holder_of",
    "links_of",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
