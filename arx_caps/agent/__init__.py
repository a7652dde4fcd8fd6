# SPDX-License-Identifier: Apache-2.0
"""What an agent needs: sessions at the mint, tasks, delegations, approvals, signed calls.  The front door.

Each name is imported at its first use: a sub-agent that attenuates and delegates a task loads no HTTP client.
"""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.agent.agent import Agent, Workload
    from arx_caps.agent.approval import Approval
    from arx_caps.agent.async_agent import AsyncAgent, AsyncApproval, AsyncSession, AsyncStartedTask
    from arx_caps.agent.auth import ArxAuth
    from arx_caps.agent.bundle import Bundle
    from arx_caps.agent.current_task_auth import CurrentTaskAuth
    from arx_caps.agent.holder_key import find_holder_key, load_holder_key, make_holder_key
    from arx_caps.agent.local_tools import local_tool
    from arx_caps.agent.mcp_messages import NO_FORM, McpSigner, SignedTransport, refused_call
    from arx_caps.agent.model_budget import ModelBudget, ReservedCall, TokenUsage
    from arx_caps.agent.outline import holder_of, links_of
    from arx_caps.agent.running_task import current_task
    from arx_caps.agent.session import Session
    from arx_caps.agent.started_task import StartedTask
    from arx_caps.agent.task import Task
    from arx_caps.agent.tool_calls import RunToolCalls, SubAgent, ToolCalls, ToolRefusal
    from arx_verifier.token import HolderKey
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "agent": "Agent Workload",
            "async_agent": "AsyncAgent AsyncApproval AsyncSession AsyncStartedTask",
            "approval": "Approval",
            "auth": "ArxAuth",
            "bundle": "Bundle",
            "current_task_auth": "CurrentTaskAuth",
            "holder_key": "HolderKey find_holder_key load_holder_key make_holder_key",
            "mcp_messages": "NO_FORM McpSigner SignedTransport refused_call",
            "model_budget": "ModelBudget ReservedCall TokenUsage",
            "running_task": "current_task",
            "local_tools": "local_tool",
            "outline": "holder_of links_of",
            "session": "Session",
            "started_task": "StartedTask",
            "task": "Task",
            "tool_calls": "RunToolCalls SubAgent ToolCalls ToolRefusal",
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
