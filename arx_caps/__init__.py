# SPDX-License-Identifier: Apache-2.0
"""The agents' side, the mint, revocation and the operators' tools; verification is ``arx_verifier``.

This module exports the names that an agent's code uses, with the errors that it catches.
"""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.agent.sessions.agent import Agent as Agent
    from arx_caps.agent.sessions.async_agent import AsyncAgent as AsyncAgent
    from arx_caps.agent.sessions.session import Session as Session
    from arx_caps.agent.tasks.approval import Approval as Approval
    from arx_caps.agent.tasks.task import Task as Task
    from arx_verifier.errors import AccessError as AccessError
    from arx_verifier.errors import ArxError as ArxError
    from arx_verifier.errors import AttenuationError as AttenuationError
    from arx_verifier.errors import GrantError as GrantError
    from arx_verifier.errors import RequestError as RequestError
    from arx_verifier.errors import SettingsError as SettingsError
    from arx_verifier.errors import TokenError as TokenError
    from arx_verifier.errors import UnavailableError as UnavailableError
else:
    open_door(__name__)
