# SPDX-License-Identifier: Apache-2.0
"""Routes of operators' tokens, agents and services: who there is.  SPEC 16."""

from typing import Annotated, Any, Final

from msgspec import Meta

from arx_caps.keyfile import PublicKey
from arx_caps.mint.ending import deactivate
from arx_caps.mint.endpoint import Answer, Asked, Body, Endpoint
from arx_caps.mint.events import Event
from arx_caps.mint.granting import grant_operator
from arx_caps.mint.shown import show_agent
from arx_verifier import codec, names
from arx_verifier.errors import GrantError, RequestError, refusal
from arx_verifier.store_address import without_login

Short = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(max_length=64)]


class OperatorTokenBody(Body, frozen=True):
    """An operator's assertion."""

    assertion: str


class AgentBody(Body, frozen=True):
    """An agent to enrol."""

    path: str
    jwk: dict[str, Any]
    owner: Short | None = None
    metadata: Annotated[dict[Name, Short], Meta(max_length=16)] | None = None


class AgentKeysBody(Body, frozen=True):
    """A key to add to an agent's, a key to take away."""

    add_jwk: dict[str, Any] | None = None
    remove_kid: Name | None = None


class ServiceBody(Body, frozen=True):
    """A tool service to enrol."""

    audience: str


def operator_token(asked: Asked) -> Answer:
    """Give an operator a token for ten minutes."""
    if asked.proof is None:
        raise refusal("missing_token")
    token, expires_at = grant_operator(asked.mint, asked.body.assertion, asked.proof)
    return Answer({"token": token, "token_type": "DPoP", "expires_at": expires_at}, 201)


def enrol_agent(asked: Asked) -> Answer:
    """Enrol an agent with its first key."""
    body, mint = asked.body, asked.mint
    if not names.is_agent_path(body.path):
        raise RequestError("path is not an agent path: 1-8 segments [a-z0-9][a-z0-9._-]* joined by '/'")
    key, metadata = PublicKey(body.jwk), body.metadata or {}
    told = {"agent": body.path, "key": key.kid, "owner": body.owner, "metadata": metadata}
    what = Event.of("agent.enrolled", asked.by.by, **told)
    mint.state.add_agent(body.path, key, owner=body.owner, metadata=metadata, what=what)
    return Answer(show_agent(mint, _agent(asked, body.path)), 201)


def list_agents(asked: Asked) -> Answer:
    """List the agents."""
    return Answer({"agents": [show_agent(asked.mint, row) for row in asked.mint.state.agents()]})


def get_agent(asked: Asked) -> Answer:
    """Show one agent."""
    return Answer(show_agent(asked.mint, _agent(asked, asked.path["path"])))


def patch_agent(asked: Asked) -> Answer:
    """Rotate an agent's keys.  Sessions that were opened with a key that goes are not ended by it."""
    body, mint, path = asked.body, asked.mint, _agent(asked, asked.path["path"])["path"]
    if body.add_jwk is None and body.remove_kid is None:
        raise RequestError("say add_jwk, remove_kid, or both")
    key = PublicKey(body.add_jwk) if body.add_jwk is not None else None
    told = {"agent": path, "added": key.kid if key is not None else None, "removed": body.remove_kid}
    mint.state.change_keys(path, key, body.remove_kid, Event.of("agent.keys_changed", asked.by.by, **told))
    return Answer(show_agent(mint, _agent(asked, path)))


def delete_agent(asked: Asked) -> Answer:
    """Deactivate an agent, for everything it holds and everything below it."""
    path = _agent(asked, asked.path["path"])["path"]
    report = deactivate(asked.mint, path, asked.by.by, "deactivated")
    return Answer({"agent": show_agent(asked.mint, _agent(asked, path)), "kill": report})


def _agent(asked: Asked, path: str) -> dict[str, Any]:
    row = asked.mint.state.agent(path) if names.is_agent_path(path) else None
    if row is None:
        raise GrantError("there is no such agent", code="not_found")
    return row


def enrol_service(asked: Asked) -> Answer:
    """Enrol a tool service, or find it, and return its service file, a secret."""
    mint, audience, by = asked.mint, asked.body.audience, asked.by.by
    if not names.is_audience(audience):
        raise RequestError("audience is [a-z0-9][a-z0-9._-]{0,63} and does not begin with arx")
    n = mint.state.enrol_service(audience, by, Event.of("service.enrolled", by, audience=audience))
    keys = {kid: codec.text_of(key) for kid, key in mint.roots.audience_keys(audience, n).items()}
    file = {"v": 1, "realm": mint.realm.name, "audience": audience, "max_ttl_ms": mint.realm.max_ttl_ms, "keys": keys}
    # The mint's own login may kill and lift: a service follows with one of its own, or none.
    store = without_login(mint.store_url)
    return Answer(file | {"store": store, "journal": str(mint.realm.journals_dir / audience)}, 201)


def whoami(asked: Asked) -> Answer:
    """Say who the caller is, as the mint sees it."""
    caller = asked.by
    shown: dict[str, Any] = {"kind": caller.kind, "name": caller.name, "expires_at": caller.expires_at}
    shown |= {"realm": asked.mint.realm.name, "policy": asked.mint.policy.digest}
    if caller.session is not None:
        shown["session"] = caller.session["id"]
    return Answer(shown)


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/operators/token", None, operator_token, OperatorTokenBody),
    Endpoint("POST", "/v1/agents", "arx.agents.write", enrol_agent, AgentBody),
    Endpoint("GET", "/v1/agents", "arx.agents.read", list_agents),
    Endpoint("GET", "/v1/agents/{path:path}", "arx.agents.read", get_agent),
    Endpoint("PATCH", "/v1/agents/{path:path}", "arx.agents.write", patch_agent, AgentKeysBody),
    Endpoint("DELETE", "/v1/agents/{path:path}", "arx.agents.write", delete_agent),
    Endpoint("POST", "/v1/services", "arx.services.write", enrol_service, ServiceBody),
    Endpoint("GET", "/v1/whoami", "arx.whoami", whoami, callers=("operator", "agent")),
)
