# SPDX-License-Identifier: Apache-2.0
"""Routes of registered OAuth clients.  CONTROL 5.2."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.routes.work.sessions import Duration
from arx_caps.mint.api.views import require_row, show_row
from arx_caps.mint.context import HasRealm
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.oauth_clients import CLIENTS_ORDER, SELF, end_of_unused
from arx_caps.mint.db.tables import OAUTH_CLIENTS, OAuthClientRow
from arx_caps.mint.oauth.client.clients import new_secret, read_client_keys, scopes_of
from arx_caps.mint.oauth.client.redirects import check_redirect
from arx_caps.mint.tasks.revoke import end_session, kill_links
from arx_caps.mint.tasks.token_factory import new_name
from arx_caps.settings.durations import MAX_MS, duration_within
from arx_caps.settings.self_registration import DEFAULT_UNUSED_MS
from arx_verifier.clock import now_ms
from arx_verifier.errors import RequestError

READ: Final = "arx.clients.read"
WRITE: Final = "arx.clients.write"
MAX_NAMES: Final = 32

Names = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=MAX_NAMES)]
Redirects = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(max_length=8)]


class ClientBody(Body, frozen=True):
    """A client: its agent, the templates of its tasks, and its public keys; without keys it gets a secret.

    ``introspects`` are audiences whose access tokens it may introspect. ``redirects`` are the URIs to which people come
    back from login and consent. A ``public`` client has neither keys nor a secret, as a program on a person's machine.
    """

    agent: Annotated[str, Meta(max_length=64)]
    scopes: Names | None = None
    introspects: Names | None = None
    jwks: Annotated[tuple[dict[str, Any], ...], Meta(max_length=8)] | None = None
    redirects: Redirects | None = None
    public: bool = False
    expires: Duration | None = None


class ClientShown(RouteAnswer, frozen=True):
    """A client; ``keys`` are ids of its keys, empty for one with a secret.

    ``name`` is what a client calls itself that no operator has registered, ``url`` is where its document is, and
    ``expires_at`` is when it ends: of one for a time, and of one that registered itself unless it is
    used.
    """

    id: str
    agent: str
    scopes: tuple[str, ...]
    introspects: tuple[str, ...]
    redirects: tuple[str, ...]
    public: bool
    keys: tuple[str, ...]
    url: str | None
    name: str | None
    created_at: int
    by: str
    used_at: int | None
    expires_at: int | None
    ended_at: int | None


class ClientAdded(Hidden, RouteAnswer, frozen=True):
    """A new client, and its secret unless it has keys; the mint keeps a digest of the secret alone."""

    client: ClientShown
    secret: str | UnsetType = UNSET


class Clients(Paged, frozen=True):
    """A page of clients by id; ``total`` counts removed ones too."""

    clients: list[ClientShown]
    total: int


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/clients", WRITE, ClientBody, status=201, problems=("not_found",))
def add_client(call: RouteCall) -> ClientAdded:
    """Register an OAuth client for an agent."""
    mint, body, by = call.mint, call.body, call.authenticated.actor
    scopes, introspects = body.scopes or (), body.introspects or ()
    if not scopes and not introspects:
        raise RequestError("invalid client: expected scopes or introspects, got neither")
    if unknown := [name for name in scopes if name not in mint.policy.templates]:
        known = ", ".join(sorted(mint.policy.templates))
        raise RequestError(f"invalid scope: expected some of {known}, as the policy has, got {', '.join(unknown)}")
    redirects = tuple(map(check_redirect, body.redirects or ()))
    if body.public and (body.jwks is not None or introspects or not redirects):
        raise RequestError("invalid client: a public one needs a redirect, and has neither keys nor introspects")
    if redirects and not scopes:
        raise RequestError("invalid client: expected scopes beside redirects, got none")
    now, life_ms = now_ms(), duration_within(body.expires, MAX_MS) if body.expires is not None else None
    if body.expires is not None and life_ms is None:
        raise RequestError(f"invalid expires: expected a duration such as 30m, at most 366d, got {body.expires!r}")
    expires_at = None if life_ms is None else now + life_ms
    secret, digest = new_secret() if body.jwks is None and not body.public else (UNSET, None)
    jwks = None if body.jwks is None else read_client_keys(body.jwks)
    row = OAuthClientRow(
        id=new_name("c-"),
        agent=body.agent,
        created_at=now,
        by=by,
        scopes=scopes,
        introspects=introspects,
        redirects=redirects,
        secret=digest,
        jwks=jwks,
        expires_at=expires_at,
    )
    facts: dict[str, Any] = {"agent": body.agent, "scopes": scopes, "introspects": introspects}
    facts |= {"redirects": redirects, "public": body.public, "expires_at": expires_at}
    facts["keys"] = tuple(jwk["kid"] for jwk in jwks or ())
    mint.db.oauth_clients.add(row, Event.of("client.added", by, client=row.id, **facts))
    return ClientAdded(client=_show(mint, row), secret=secret)


@endpoint("GET", "/v1/clients", READ, query=PageQuery)
def list_clients(call: RouteCall) -> Clients:
    """List the OAuth clients."""
    mint, limit = call.mint, call.query.limit
    rows = mint.db.oauth_clients.list(after=call.query.after, limit=limit + 1)
    page = page_of(rows, CLIENTS_ORDER, lambda row: _show(mint, row), limit=limit)
    return Clients(clients=page.shown, total=mint.db.count(OAUTH_CLIENTS), next=page.next)


@endpoint("GET", "/v1/clients/{client}", READ, problems=("not_found",))
def get_client(call: RouteCall) -> ClientShown:
    """Return an OAuth client."""
    return _show(call.mint, _find(call))


@endpoint("DELETE", "/v1/clients/{client}", WRITE, problems=("not_found", "conflict"))
def delete_client(call: RouteCall) -> ClientShown:
    """Remove an OAuth client for good, and end its sessions."""
    mint, by, row = call.mint, call.authenticated.actor, _find(call)
    # The row first: a request for a token that comes in between is refused, or its session is ended here.
    mint.db.oauth_clients.end(row.id, Event.of("client.removed", by, client=row.id))
    for session in mint.db.oauth_handles.sessions(row.id):
        # Not those of others, who delegated to it: there the delegation ends alone.
        if (session.opened_with or {}).get("client") == row.id:
            end_session(mint.db, mint.revoker, session, by)
    live = mint.db.oauth_handles.live(row.id)
    links = {str(handle.recipe["last"]) for handle in live if "last" in handle.recipe}
    if links:
        kill_links(mint.revoker, links, by)
    return _show(call.mint, _find(call))


def _find(call: RouteCall) -> OAuthClientRow:
    return require_row(call.mint.db.oauth_clients.find(call.path["client"]), "client")


def _show(mint: HasRealm, row: OAuthClientRow) -> ClientShown:
    unused_ms = DEFAULT_UNUSED_MS if mint.realm.clients is None else mint.realm.clients.unused_ms
    return show_row(
        ClientShown,
        row,
        scopes=scopes_of(mint, row),
        public=row.public,
        keys=tuple(jwk["kid"] for jwk in row.jwks or ()),
        expires_at=end_of_unused(row, unused_ms) if row.by == SELF else row.expires_at,
    )
