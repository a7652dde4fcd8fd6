# SPDX-License-Identifier: Apache-2.0
"""What an agent needs: sessions at the mint, tasks, delegations, approvals, signed calls.  The front door.

Each name is imported at its first use: a sub-agent that attenuates and delegates a task loads no HTTP client.
"""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.agent.sessions.agent import Agent, Workload
    from arx_caps.agent.sessions.async_agent import AsyncAgent, AsyncApproval, AsyncSession, AsyncStartedTask
    from arx_caps.agent.sessions.session import Session
    from arx_caps.agent.sessions.started_task import StartedTask
    from arx_caps.agent.tasks.approval import Approval
    from arx_caps.agent.tasks.auth import ArxAuth
    from arx_caps.agent.tasks.bundle import Bundle
    from arx_caps.agent.tasks.holder_key import find_holder_key, load_holder_key, make_holder_key
    from arx_caps.agent.tasks.outline import holder_of, links_of
    from arx_caps.agent.tasks.task import Task
    from arx_caps.agent.tools.current_task_auth import CurrentTaskAuth
    from arx_caps.agent.tools.local_tools import local_tool
    from arx_caps.agent.tools.mcp_messages import NO_FORM, McpSigner, SignedTransport, refused_call
    from arx_caps.agent.tools.model_budget import ModelBudget, ReservedCall, TokenUsage
    from arx_caps.agent.tools.running_task import current_task
    from arx_caps.agent.tools.tool_calls import RunToolCalls, SubAgent, ToolCalls, ToolRefusal
    from arx_verifier.token import HolderKey
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "sessions.agent": "Agent Workload",
            "sessions.async_agent": "AsyncAgent AsyncApproval AsyncSession AsyncStartedTask",
            "tasks.approval": "Approval",
            "tasks.auth": "ArxAuth",
            "tasks.bundle": "Bundle",
            "tools.current_task_auth": "CurrentTaskAuth",
            "tasks.holder_key": "HolderKey find_holder_key load_holder_key make_holder_key",
            "tools.mcp_messages": "NO_FORM McpSigner SignedTransport refused_call",
            "tools.model_budget": "ModelBudget ReservedCall TokenUsage",
            "tools.running_task": "current_task",
            "tools.local_tools": "local_tool",
            "tasks.outline": "holder_of links_of",
            "sessions.session": "Session",
            "sessions.started_task": "StartedTask",
            "tasks.task": "Task",
            "tools.tool_calls": "RunToolCalls SubAgent ToolCalls ToolRefusal",
        },
    )

__all__ = [
    "NO_FORM",
    "Agent",
    "Approval",
    "ArxAuth",
    "AsyncAgent",
    "AsyncApproval",
    "AsyncSession",
    "AsyncStartedTask",
    "Bundle",
    "CurrentTaskAuth",
    "HolderKey",
    "McpSigner",
    "ModelBudget",
    "ReservedCall",
    "RunToolCalls",
    "Session",
    "SignedTransport",
    "StartedTask",
    "SubAgent",
    "Task",
    "TokenUsage",
    "ToolCalls",
    "ToolRefusal",
    "Workload",
    "current_task",
    "find_holder_key",
    "holder_of",
    "links_of",
    "load_holder_key",
    "local_tool",
    "make_holder_key",
    "refused_call",
]
