# SPDX-License-Identifier: Apache-2.0
"""Routes of agents: their paths, keys and metadata.  CONTROL 1."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import AgentShown, KillShown, require_row, show_agent, show_kill
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.agents import AGENTS_ORDER
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.db.tables import AGENTS, AgentRow
from arx_caps.mint.tasks.revoke import deactivate
from arx_verifier import names
from arx_verifier.errors import RequestError
from arx_verifier.names import MAX_PATH_BYTES

Short = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
MAX_METADATA: Final = 16  # members; all of them are in every token of the agent


class AgentBody(Body, frozen=True):
    """An agent to enrol; without ``jwk``, a ``[[workload]]`` of the policy must name it."""

    path: str
    jwk: dict[str, Any] | None = None
    owner: Short | None = None
    metadata: Annotated[dict[Name, Short], Meta(max_length=MAX_METADATA)] | None = None


class AgentPatchBody(Body, frozen=True):
    """Changes of an agent: keys, ``owner``, and ``metadata`` as a merge patch (RFC 7396)."""

    add_jwk: dict[str, Any] | None = None
    remove_kid: Name | None = None
    owner: Short | UnsetType | None = UNSET
    metadata: Annotated[dict[Name, Short | None], Meta(max_length=2 * MAX_METADATA)] | UnsetType = UNSET


class AgentsQuery(PageQuery, frozen=True):
    """The agents to list: in a state; an agent with all agents below it."""

    state: Literal["active", "deactivated"] | None = None
    under: Annotated[str, Meta(max_length=MAX_PATH_BYTES)] | None = None


class Agents(Paged, frozen=True):
    """A page of agents by path; ``total`` counts all enrolled agents."""

    agents: list[AgentShown]
    total: int


class AgentEnded(RouteAnswer, frozen=True):
    """A deactivated agent, and the kill of its sessions and tasks."""

    agent: AgentShown
    kill: KillShown


_TAKEN: Final = ("agent_exists", "key_enrolled", "conflict")
ENDPOINTS, endpoint = collect(Endpoint)


def agent_again(call: RouteCall, made: Made) -> AgentShown:
    """Answer a repeat of an enrolment."""
    return show_agent(call.mint, _find_agent(call, made.facts["agent"]))


@endpoint(
    "POST",
    "/v1/agents",
    "arx.agents.write",
    AgentBody,
    status=201,
    problems=_TAKEN,
    again=agent_again,
    makes="agent.enrolled",
)
def enrol_agent(call: RouteCall) -> AgentShown:
    """Enrol an agent, with or without a first key."""
    body, mint = call.body, call.mint
    # A delegation chain names a service `service/<audience>`: an agent of that path could pass for it.
    if body.path.partition("/")[0] == "service":
        raise RequestError("invalid path: `service/…` is reserved for tool services in chains (CONTROL 2.6)")
    if not names.is_agent_path(body.path):
        raise RequestError("invalid path: expected 1-8 segments of [a-z0-9][a-z0-9._-]* joined by '/'")
    # Without a key and without a workload rule, the agent could never open a session.
    if body.jwk is None and not _is_workload(call, body.path):
        raise RequestError("missing jwk: no [[workload]] of the policy names this agent; send a key or add an entry")
    key, metadata = PublicKey(body.jwk) if body.jwk is not None else None, body.metadata or {}
    facts = {"agent": body.path, "key": key.kid if key is not None else None, "owner": body.owner, "metadata": metadata}
    event = Event.of("agent.enrolled", call.authenticated.actor, **facts)
    mint.db.agents.add(call.unit, body.path, key, owner=body.owner, metadata=metadata, what=event)
    return show_agent(mint, _find_agent(call, body.path))


@endpoint("GET", "/v1/agents", "arx.agents.read", query=AgentsQuery)
def list_agents(call: RouteCall) -> Agents:
    """List the agents."""
    mint, query = call.mint, call.query
    rows = mint.db.agents.list(status=query.state, under=query.under, after=query.after, limit=query.limit + 1)
    # One query for all keys of the page, and not one for each agent.
    keys = mint.db.holder_keys.by_holder(row.path for row in rows)
    page = page_of(rows, AGENTS_ORDER, lambda row: show_agent(mint, row, keys[row.path]), limit=query.limit)
    return Agents(agents=page.shown, total=mint.db.count(AGENTS), next=page.next)


@endpoint("GET", "/v1/agents/{path:path}", "arx.agents.read", problems=("not_found",))
def get_agent(call: RouteCall) -> AgentShown:
    """Show one agent."""
    return show_agent(call.mint, _find_agent(call, call.path["path"]))


@endpoint(
    "PATCH",
    "/v1/agents/{path:path}",
    "arx.agents.write",
    AgentPatchBody,
    problems=("not_found", "conflict", "key_enrolled"),
)
def patch_agent(call: RouteCall) -> AgentShown:
    """Change an agent's keys and metadata.

    Sessions that were opened with a removed key go on until they are killed or expire.  A change of metadata is in the
    tokens that the agent gets from then on.
    """
    body, mint, path = call.body, call.mint, _find_agent(call, call.path["path"]).path
    changes_keys = body.add_jwk is not None or body.remove_kid is not None
    if not changes_keys and body.owner is UNSET and body.metadata is UNSET:
        raise RequestError("nothing to change: send add_jwk, remove_kid, owner or metadata")
    if changes_keys:
        key = PublicKey(body.add_jwk) if body.add_jwk is not None else None
        facts = {"agent": path, "added": key.kid if key is not None else None, "removed": body.remove_kid}
        # Only an agent with a workload's token can do without a key: removing the last one would lock any other out.
        keep_one = not _is_workload(call, path)
        event = Event.of("agent.keys_changed", call.authenticated.actor, **facts)
        mint.db.holder_keys.change(path, key, body.remove_kid, event, keep_one=keep_one)
    if body.owner is not UNSET or body.metadata is not UNSET:
        owner = {} if body.owner is UNSET else {"owner": body.owner or None}
        metadata = {} if body.metadata is UNSET else body.metadata
        mint.db.agents.describe(path, owner, metadata, call.authenticated.actor, most=MAX_METADATA)
    return show_agent(mint, _find_agent(call, path))


@endpoint("DELETE", "/v1/agents/{path:path}", "arx.agents.write", problems=("not_found", "conflict"))
def delete_agent(call: RouteCall) -> AgentEnded:
    """Deactivate an agent: kill its sessions and tasks, and those of all agents below it."""
    path = _find_agent(call, call.path["path"]).path
    # A row alone would not stop the tokens that are out: services do not ask the mint.
    report = deactivate(call.mint.db, call.mint.revoker, path, call.authenticated.actor)
    return AgentEnded(agent=show_agent(call.mint, _find_agent(call, path)), kill=show_kill(report))


def _is_workload(call: RouteCall, path: str) -> bool:
    """Return whether a ``[[workload]]`` of the policy names this agent."""
    return any(workload.agent == path for workload in call.mint.policies.loaded.workloads)


def _find_agent(call: RouteCall, path: str) -> AgentRow:
    # Any text can be in a URL's path: one that is no agent's path is not looked up.
    return require_row(call.mint.db.agents.find(path) if names.is_agent_path(path) else None, "agent")
