# SPDX-License-Identifier: Apache-2.0
"""What an agent needs: sessions at the mint, tasks, delegations, approvals, signed calls.  The front door.

Each name is imported at its first use: a sub-agent that attenuates and delegates a task loads no HTTP client.
"""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.agent.sessions.agent import Agent as Agent
    from arx_caps.agent.sessions.agent import Workload as Workload
    from arx_caps.agent.sessions.async_agent import AsyncAgent as AsyncAgent
    from arx_caps.agent.sessions.async_agent import AsyncApproval as AsyncApproval
    from arx_caps.agent.sessions.async_agent import AsyncSession as AsyncSession
    from arx_caps.agent.sessions.async_agent import AsyncStartedTask as AsyncStartedTask
    from arx_caps.agent.sessions.session import Session as Session
    from arx_caps.agent.sessions.started_task import StartedTask as StartedTask
    from arx_caps.agent.tasks.approval import Approval as Approval
    from arx_caps.agent.tasks.auth import ArxAuth as ArxAuth
    from arx_caps.agent.tasks.bundle import Bundle as Bundle
    from arx_caps.agent.tasks.holder_key import find_holder_key as find_holder_key
    from arx_caps.agent.tasks.holder_key import load_holder_key as load_holder_key
    from arx_caps.agent.tasks.holder_key import make_holder_key as make_holder_key
    from arx_caps.agent.tasks.outline import holder_of as holder_of
    from arx_caps.agent.tasks.outline import links_of as links_of
    from arx_caps.agent.tasks.task import Task as Task
    from arx_caps.agent.tools.current_task_auth import CurrentTaskAuth as CurrentTaskAuth
    from arx_caps.agent.tools.local_tools import local_tool as local_tool
    from arx_caps.agent.tools.mcp_messages import NO_FORM as NO_FORM
    from arx_caps.agent.tools.mcp_messages import McpSigner as McpSigner
    from arx_caps.agent.tools.mcp_messages import SignedTransport as SignedTransport
    from arx_caps.agent.tools.mcp_messages import refused_call as refused_call
    from arx_caps.agent.tools.running_task import current_task as current_task
    from arx_caps.agent.tools.tool_calls import RunToolCalls as RunToolCalls
    from arx_caps.agent.tools.tool_calls import SubAgent as SubAgent
    from arx_caps.agent.tools.tool_calls import ToolCalls as ToolCalls
    from arx_caps.agent.tools.tool_calls import ToolRefusal as ToolRefusal
    from arx_caps.agent.tools.tool_calls import ToolTables as ToolTables
    from arx_verifier.token.holder import HolderKey as HolderKey
else:
    open_door(__name__)
