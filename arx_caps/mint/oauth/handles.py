# SPDX-License-Identifier: Apache-2.0
"""Access tokens: issued for a task, looked up, and opened for the gateway of their audience.  CONTROL 5.3, 5.4."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from arx_caps.access_token import LIFE_MS, AccessToken, read_access_token, sign_access_token
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.oauth.clients import OAuthClient
from arx_caps.mint.tasks.liveness import session_state, task_state
from arx_caps.mint.tasks.reissue import reissue_task
from arx_caps.mint.tasks.token_factory import new_name
from arx_verifier.errors import TokenError, refusal


class Issued(NamedTuple):
    """An access token, a secret, and its claims."""

    token: str
    claims: AccessToken


class Handle(NamedTuple):
    """A verified access token with the rows that it stands for.

    Attributes:
        claims: Its claims.
        row: Its row.
        session: The session's row.
        task: The task's row.
    """

    claims: AccessToken
    row: Mapping[str, Any]
    session: Mapping[str, Any]
    task: Mapping[str, Any]


def issue_handle(
    mint: MintContext, unit: UnitOfWork, client: OAuthClient, task: Mapping[str, Any], *, resource: str, audience: str
) -> Issued:
    """Issue an access token for a task that was started in this unit of work.

    Args:
        mint: The mint.
        unit: The call's unit of work, with the recipe of the task's tokens.
        client: The client.
        task: The task's row.
        resource: The resource that the client named.
        audience: The audience that has it.
    """
    now = now_ms()
    kid, key = mint.signing_keys.signer()
    end = min(now + LIFE_MS, int(task["expires_at"])) // 1000
    claims = AccessToken(
        iss=mint.realm.issuer,
        aud=resource,
        sub=f"agent:{client.agent}",
        client_id=client.id,
        scope=str(task["template"]),
        iat=now // 1000,
        exp=end,
        jti=new_name("h-"),
        sid=str(task["session"]),
        tid=str(task["id"]),
    )
    row: dict[str, Any] = {
        "jti": claims.jti,
        "client": client.id,
        "session": claims.sid,
        "task": claims.tid,
        "audience": audience,
    }
    row |= {"issued_at": now, "expires_at": end * 1000, "recipe": msgspec.json.encode(unit.recipe).decode()}
    facts = {"client": client.id, "audience": audience, "resource": resource, "expires_at": end * 1000}
    what = Event.of(
        "handle.issued", f"agent:{client.agent}", handle=claims.jti, session=claims.sid, task=claims.tid, **facts
    )
    mint.db.oauth_handles.add(unit, row, what)
    return Issued(sign_access_token(claims, kid, key), claims)


def find_handle(mint: MintContext, token: str) -> Handle | None:
    """Return an access token of this mint that is neither expired nor revoked nor frozen; else None.

    Args:
        mint: The mint.
        token: The presented text, a secret.

    Raises:
        UnavailableError: The kill epoch is unknown now.
    """
    try:
        claims = read_access_token(token, mint.signing_keys.find, issuer=mint.realm.issuer, now=now_ms())
    except TokenError:
        return None
    row = mint.db.oauth_handles.find(claims.jti)
    session, task = mint.db.sessions.find(claims.sid), mint.db.tasks.find(claims.tid)
    if row is None or session is None or task is None or (row["session"], row["task"]) != (claims.sid, claims.tid):
        return None
    mint.born()  # a stale view would answer that a killed one is active
    if session_state(mint, session) != "open" or task_state(mint, task) != "open":
        return None
    return Handle(claims, row, session, task)


def open_handle(mint: MintContext, token: str, audience: str) -> tuple[Handle, str]:
    """Return an access token's handle, and the bundle that it stands for, a secret.

    Args:
        mint: The mint.
        token: The presented text, a secret.
        audience: The service that asks: the bundle has its token alone.

    Raises:
        TokenError: ``revoked``: the access token is not active; ``wrong_audience``: it is for another service.
        UnavailableError: The kill epoch is unknown now.
    """
    handle = find_handle(mint, token)
    if handle is None:
        raise refusal("revoked")
    if handle.row["audience"] != audience:
        raise refusal("wrong_audience")
    recipe = msgspec.json.decode(handle.row["recipe"], type=dict[str, Any])
    # Of this audience alone: a service gets no token for another one.
    for part in ("caveats", "origins", "needs"):
        recipe[part] = {name: value for name, value in (recipe[part] or {}).items() if name == audience}
    return handle, reissue_task(mint, recipe, handle.session, str(handle.task["id"]))


def scopes_at(mint: MintContext, handle: Handle, audience: str) -> dict[str, list[str]]:
    """Return by template that the handle's client may ask for, the tools of an audience that it allows."""
    client = mint.db.oauth_clients.find(handle.claims.client_id)
    names = msgspec.json.decode(client["scopes"], type=tuple[str, ...]) if client is not None else ()
    templates = mint.policy.templates
    return {
        name: sorted({rule.tool for rule in templates[name].rules if rule.at == audience})
        for name in names
        if name in templates and templates[name].allows_bearer and audience in templates[name].audiences
    }
