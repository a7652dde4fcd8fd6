# SPDX-License-Identifier: Apache-2.0
"""Access tokens, *handles* in the API: issued, looked up, and opened as what they stand for.  CONTROL 5.3, 5.4.

An access token stands for a task: the gateway of its audience gets the task's token for it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from arx_caps.credentials.access_token import (
    LIFE_MS,
    AccessToken,
    Actor,
    Confirmation,
    read_access_token,
    sign_access_token,
)
from arx_caps.mint.context import Born, ClientParts, HandleParts, HasPolicy, IssuingParts, SigningParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import HandleRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.oauth.client.clients import OAuthClient, scopes_of
from arx_caps.mint.tasks.liveness import session_state, task_state
from arx_caps.mint.tasks.reissue import reissue_task
from arx_caps.mint.tasks.token_factory import new_name
from arx_verifier.clock import now_ms
from arx_verifier.errors import TokenError, refusal
from arx_verifier.token.caveats import Caveat


class Issued(NamedTuple):
    """An access token and, after a consent, a refresh token, both secrets; and the claims of the former."""

    token: str
    claims: AccessToken
    refresh: str | None = None

    def __repr__(self) -> str:
        return "<Issued>"


class Handle(NamedTuple):
    """A verified access token with the rows that it stands for.

    Attributes:
        claims: Its claims.
        row: Its row.
        session: The session's row.
        task: The task's row.
    """

    claims: AccessToken
    row: HandleRow
    session: SessionRow
    task: TaskRow


def issue_handle(
    mint: SigningParts,
    unit: UnitOfWork,
    client: OAuthClient,
    task: TaskRow,
    *,
    resource: str,
    audience: str,
    of: AccessToken | None = None,
    is_hop: bool = False,
) -> Issued:
    """Issue an access token for a task.

    Args:
        mint: The mint.
        unit: The call's unit of work, with the recipe of the task's tokens.
        client: The client.
        task: The task's row.
        resource: The resource that the client named.
        audience: The audience that has it.
        of: The claims of the access token that is exchanged for it; None for a task of the client's own agent.
        is_hop: Whether that one was issued to another client, so that the task is delegated.
    """
    now, actor = now_ms(), f"agent:{client.agent}"
    kid, key = mint.signing_keys.signer()
    end = min(now + LIFE_MS, task.expires_at) // 1000
    if client.expires_at is not None:
        end = min(end, client.expires_at // 1000)
    if of is not None:
        end = min(end, of.exp)  # or a stolen one would be exchanged again and again
    claims = AccessToken(
        iss=mint.realm.issuer,
        aud=resource,
        sub=actor if of is None else of.sub,
        client_id=client.client_id,
        scope=task.template,
        iat=now // 1000,
        exp=end,
        jti=new_name("h-"),
        sid=task.session,
        tid=task.id,
        act=None if of is None else Actor(actor, of.act) if is_hop else of.act,
        cnf=None if client.jkt is None else Confirmation(client.jkt),
    )
    recipe = dict(unit.recipe or {})
    row = HandleRow(claims.jti, client.id, claims.sid, claims.tid, audience, now, end * 1000, recipe)
    facts: dict[str, Any] = {"client": client.id, "audience": audience, "resource": resource, "expires_at": end * 1000}
    facts |= {"of": of.jti, "link": recipe.get("last")} if of is not None else {}
    what = Event.of("handle.issued", actor, handle=claims.jti, session=claims.sid, task=claims.tid, **facts)
    mint.db.oauth_handles.add(unit, row, what)
    return Issued(sign_access_token(claims, kid, key), claims)


def find_handle(mint: HandleParts, token: str) -> Handle | None:
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
    if row is None or session is None or task is None or (row.session, row.task) != (claims.sid, claims.tid):
        return None
    mint.kills.born()  # a stale view would answer that a killed one is active
    if session_state(mint.kills, session) != "open" or task_state(mint.kills, task) != "open":
        return None
    handle = Handle(claims, row, session, task)
    # Those of the delegations, since the task began: their agents, and their links.
    incarnation, seq = Born(*row.recipe["born"])[:2]
    if mint.epochs.check(incarnation, seq, row.recipe.get("targets", ())) is not None:
        return None
    return handle


def require_handle(mint: HandleParts, token: str, audience: str) -> Handle:
    """Return an access token for a service.

    Args:
        mint: The mint.
        token: The presented text, a secret.
        audience: The service that asks.

    Raises:
        TokenError: ``revoked``: the access token is not active; ``wrong_audience``: it is for another service.
        UnavailableError: The kill epoch is unknown now.
    """
    handle = find_handle(mint, token)
    if handle is None:
        raise refusal("revoked")
    if handle.row.audience != audience:
        raise refusal("wrong_audience")
    return handle


def bundle_of(mint: IssuingParts, row: HandleRow, session: SessionRow) -> str:
    """Return the bundle that a handle's row stands for, a secret; its token cannot be delegated.

    Args:
        mint: The mint.
        row: The handle's row.
        session: Its session's row.

    Raises:
        RevokedError: The task, or a key that signed its tokens, was revoked or frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    recipe = recipe_for(row.recipe, row.audience)
    if recipe["depth"]:
        recipe["added"] = [*recipe.get("added", ()), Caveat(depth=0).encode().decode()]
    return reissue_task(mint, recipe, session, row.task)


def recipe_for(recipe: Mapping[str, Any], audience: str) -> dict[str, Any]:
    """Return the recipe of one audience's token: a service gets no token for another one."""
    parts = ("caveats", "origins", "needs")
    return {
        **recipe,
        **{part: {name: value for name, value in (recipe[part] or {}).items() if name == audience} for part in parts},
    }


def scopes_at(mint: ClientParts, handle: Handle, audience: str) -> dict[str, list[str]]:
    """Return by template that the handle's client may ask for, the tools of an audience that it allows."""
    client = mint.db.oauth_clients.find(handle.row.client)
    names = scopes_of(mint, client) if client is not None else ()
    return {name: tools for name, tools in scopes_for(mint, audience).items() if name in names}


def scopes_for(mint: HasPolicy, audience: str) -> dict[str, list[str]]:
    """Return by template that access tokens for an audience may stand for, the tools there that it allows."""
    return {
        name: sorted({rule.tool for rule in template.rules if rule.at == audience})
        for name, template in mint.policy.templates.items()
        if template.bearer_terms != "refuse" and audience in template.audiences
    }
