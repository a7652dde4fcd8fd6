# SPDX-License-Identifier: Apache-2.0
"""ARx around its verifier: the agents' side, the mint, revocation and the operators' tools.

The front door has what an agent's code types; a name is imported when it is used first (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arx_caps.agent import Agent, Approval, Session, Task

__all__ = ["Agent", "Approval", "Session", "Task"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("arx_caps.agent"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
