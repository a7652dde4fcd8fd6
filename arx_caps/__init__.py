# SPDX-License-Identifier: Apache-2.0
"""The agents' side, the mint, revocation and the operators' tools; verification is ``arx_verifier``.

This module exports the names that an agent's code uses, with the errors that it catches.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arx_caps.agent import Agent, Approval, AsyncAgent, Session, Task
    from arx_verifier import (
        AccessError,
        ArxError,
        AttenuationError,
        GrantError,
        RequestError,
        SettingsError,
        TokenError,
        UnavailableError,
    )

__all__ = [
    "AccessError",
    "Agent",
    "Approval",
    "ArxError",
    "AsyncAgent",
    "AttenuationError",
    "GrantError",
    "RequestError",
    "Session",
    "SettingsError",
    "Task",
    "TokenError",
    "UnavailableError",
]


# Each name is imported at its first use (PEP 562), so that `import arx_caps` stays quick.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("arx_verifier" if name.endswith("Error") else "arx_caps.agent"), name)
    globals()[name] = value  # Python calls ``__getattr__`` only for names that are not in the module
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
