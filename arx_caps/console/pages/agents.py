# SPDX-License-Identifier: Apache-2.0
"""*Agents* and *Agent*: who may open sessions, with which keys, and the sessions of each."""

from typing import Final

from starlette.responses import Response

from arx_caps.console.command import command
from arx_caps.console.pages.sessions import READ as READ_SESSIONS
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.identity.agents import get_agent, list_agents
from arx_caps.mint.api.routes.work.sessions import list_sessions

HOME: Final = "/console/agents"
FILTERS: Final = ("under", "state")
SHOWN: Final = 50
SESSIONS: Final = 25


def show_list(visit: Visit) -> Response:
    """List the agents by path."""
    filters = {name: visit.query.get(name, "") for name in FILTERS}
    found = visit.call(list_agents, query=filters | {"after": visit.query.get("after"), "limit": SHOWN})
    return visit.render(
        "agents.html",
        title="Agents",
        command=command("agent list", filters),
        found=found,
        filters=filters,
    )


def show_one(visit: Visit) -> Response:
    """Show an agent: its owner, keys and sessions."""
    agent = visit.call(get_agent, path={"path": visit.request.path_params["path"]})
    found = None
    if visit.may(READ_SESSIONS):
        found = visit.call(list_sessions, query={"agent": agent.path, "counts": "true", "limit": SESSIONS})
    return visit.render(
        "agent.html",
        title=f"Agent {agent.path}",
        command=f"arx agent show {agent.path}",
        agent=agent,
        filtered=True,
        after=None,
        found=found,
    )


PAGES: Final = (Page("GET", HOME, show_list), Page("GET", f"{HOME}/{{path:path}}", show_one))
