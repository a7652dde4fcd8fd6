# SPDX-License-Identifier: Apache-2.0
"""The agents' side, the mint, revocation and the operators' tools; verification is ``arx_verifier``.

This module exports the names that an agent's code uses.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arx_caps.agent import Agent, Approval, AsyncAgent, Session, Task

__all__ = ["Agent", "Approval", "AsyncAgent", "Session", "Task"]


# Each name is imported at its first use (PEP 562), so that `import arx_caps` stays quick.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("arx_caps.agent"), name)
    globals()[name] = value  # Python calls ``__getattr__`` only for names that are not in the module
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
