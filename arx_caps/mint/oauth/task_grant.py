# SPDX-License-Identifier: Apache-2.0
"""What all grants share: the task that a form asks for, its session, and the access token for it.  CONTROL 5.3."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import msgspec
from msgspec import Meta

from arx_caps.credentials.access_token import LIFE_MS
from arx_caps.mint.context import Born, HandleParts, HasDatabase, HasPolicy, LivenessParts, TaskParts
from arx_caps.mint.db.tables import AgentRow, ConsentRow, RefreshRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.session_login import Opener, subject_of
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.oauth.handles import Issued, issue_handle
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.tables import origin_of
from arx_caps.mint.tasks.issue import TaskRequest, start_task
from arx_caps.mint.tasks.liveness import session_targets
from arx_caps.mint.tasks.sessions import open_for
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, RevokedError, refusal

DETAILS_TYPE: Final = "arx_task"
_PROVEN: Final = {"proof": "dpop"}  # in the credential of a session whose access tokens are bound to keys


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one object of ``authorization_details`` (RFC 9396).

    Attributes:
        type: ``arx_task``.
        params: The parameters of the template.
        tools: The tools that the client wants of the template's; None for all.
        allow: For an exchange, the rules that the new token keeps to besides the task's own (SPEC 7).
    """

    type: Literal["arx_task"]
    params: dict[str, Any] = {}
    tools: tuple[str, ...] | None = None
    allow: tuple[dict[str, Any], ...] | None = None


_DETAILS: Final = msgspec.json.Decoder(Annotated[tuple[Details, ...], Meta(min_length=1, max_length=1)])


class Wanted(NamedTuple):
    """A task that a client asks for.

    Attributes:
        scope: The name of its template; or the names of several, with a space between.
        resource: The URL of the service (RFC 8707).
        audience: The audience that has it.
        params: Parameters of the template; with several templates, by template.
        tools: The tools that the client wants of the template's; None for all.
    """

    scope: str
    resource: str
    audience: str
    params: dict[str, Any]
    tools: tuple[str, ...] | None

    @classmethod
    def of_row(cls, row: ConsentRow | RefreshRow) -> Self:
        """Return the task that the row of a consent or of a refresh token describes."""
        return cls(row.template, row.resource, row.audience, row.params, row.tools)


def issue_in_session(
    mint: HandleParts, unit: UnitOfWork, born: Born, client: OAuthClient, opener: Opener, form: Mapping[str, str]
) -> Issued:
    """Start a task for an authenticated opener, and issue an access token for it.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch that was read before client and opener were authenticated.
        client: The client.
        opener: The client's agent and the subject, as ``opener_of`` returns it.
        form: ``scope``, ``resource`` and ``authorization_details``.

    Raises:
        OAuthError: ``invalid_scope``, ``invalid_target`` or ``invalid_request``.
        GrantError: The policy refuses.
        RevokedError: The agent, the subject, the policy or a key is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    wanted = read_wanted(mint, client, form)
    require_bound(mint, client, wanted.scope)
    return start_and_issue(mint, unit, client, session_for(mint, unit, born, client, opener), wanted)[0]


def start_and_issue(
    mint: HandleParts, unit: UnitOfWork, client: OAuthClient, caller: AuthenticatedCaller, wanted: Wanted
) -> tuple[Issued, TaskRow]:
    """Start a task in a session, issue an access token for it, and return both.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        client: The client.
        caller: The client's agent in the session.
        wanted: The task.

    Raises:
        GrantError: The policy refuses.
        RevokedError: The agent, the subject, the policy or a key is frozen.
    """
    # With the template's depth, for a token exchange; the gateway gets tokens that it cannot delegate.
    request = TaskRequest(wanted.scope, wanted.params, None, wanted.tools, None)
    task = start_task(mint, unit, caller, request).row
    return issue_handle(mint, unit, client, task, resource=wanted.resource, audience=wanted.audience), task


def read_wanted(mint: HasPolicy, client: OAuthClient, form: Mapping[str, str]) -> Wanted:
    """Return the task that a client asks for.

    Args:
        mint: The mint.
        client: The client.
        form: ``scope``, ``resource`` and ``authorization_details``.

    Raises:
        OAuthError: ``invalid_scope``, ``invalid_target`` or ``invalid_request``.
    """
    scopes, details, policy = _scopes(client, form), read_details(form), mint.policy
    if details.allow is not None:
        raise OAuthError("invalid_request", "authorization_details: allow: for an exchange alone; send params or tools")
    resource = form.get("resource", "")
    audience = audience_at(policy, resource)
    templates = [policy.templates[name] for name in scopes if name in policy.templates]
    templates = [template for template in templates if template.bearer_terms != "refuse"]
    if client.jkt is None and "dpop_jkt" not in form:
        # Stock clients ask for all scopes that a resource lists: one without DPoP gets none that needs it.
        templates = [template for template in templates if template.bearer_terms == "allow"] or templates
    asked = " ".join(scopes)
    if not templates:
        raise OAuthError("invalid_scope", f'the policy allows no access token for {asked!r:.64}: bearer = "refuse"')
    fitting = [template.name for template in templates if audience in template.audiences]
    if audience is None or not fitting:
        names = dict.fromkeys(name for each in templates for name in each.audiences)
        listed = [policy.resources[name] or [f"a URL at {place}" for place in policy.audiences[name]] for name in names]
        expected = f"{' or '.join(place for places in listed for place in places)} (task {asked})"
        raise OAuthError("invalid_target", f"resource: expected {expected:.400}, got {resource or 'nothing'!r:.200}")
    if details.tools is not None and len(fitting) > 1:
        raise OAuthError("invalid_request", "tools in authorization_details: expected one scope beside it")
    return Wanted(" ".join(fitting), resource, audience, details.params, details.tools)


def require_bound(mint: HasPolicy, client: OAuthClient, scope: str) -> None:
    """Require a client's proof of a key if the policy wants the access tokens of a task bound to one.

    Args:
        mint: The mint.
        client: The client.
        scope: The names of the task's templates.

    Raises:
        OAuthError: ``invalid_dpop_proof``: the request has no proof.
    """
    templates = mint.policy.templates
    if client.jkt is None and any(templates[name].bearer_terms == "dpop" for name in scope.split(" ")):
        raise OAuthError(
            "invalid_dpop_proof", f"the policy allows only access tokens bound to a key for {scope}: send DPoP"
        )


def opener_of(
    mint: HasDatabase,
    client: OAuthClient,
    by: Mapping[str, str] | None = None,
    subject: Subject | None = None,
    until: int | None = None,
) -> Opener:
    """Return a client's agent as the opener of a session.

    Args:
        mint: The mint.
        client: The client.
        by: What else than the client authenticated the agent, for the record: ``issuer`` and ``sub``.
        subject: The subject on whose behalf it acts, or None.
        until: When what proved the subject expires, ms since the Unix epoch; None without a subject.

    Raises:
        RevokedError: ``frozen``: the agent is deactivated.
    """
    return Opener(active_agent(mint, client), {"client": client.id, **(by or {})}, subject, until, client.expires_at)


def active_agent(mint: HasDatabase, client: OAuthClient) -> AgentRow:
    """Return the row of a client's agent.

    Raises:
        RevokedError: ``frozen``: the agent is deactivated.
    """
    agent = mint.db.agents.find(client.agent)
    if agent is None or agent.status != "active":
        raise refusal("frozen")
    return agent


def audience_at(policy: Policy, resource: str) -> str | None:
    """Return the audience that has a resource: the one with its origin, if it lists no resources or this one.

    Args:
        policy: The policy in force.
        resource: A URL (RFC 8707).
    """
    origin = origin_of(resource)
    audience = next((audience for audience, origins in policy.audiences.items() if origin in origins), None)
    if audience is None or resource not in (policy.resources[audience] or (resource,)):
        return None
    return audience


def _scopes(client: OAuthClient, form: Mapping[str, str]) -> list[str]:
    asked = form.get("scope", "").split()
    if not asked and len(client.scopes) == 1:
        return list(client.scopes)
    # RFC 6749 3.3: others are left out, as stock clients ask for all that a resource lists, and for `offline_access`.
    known = [name for name in dict.fromkeys(asked) if name in client.scopes]
    if not known:
        raise OAuthError(
            "invalid_scope", f"scope: expected some of {', '.join(client.scopes)}, got {' '.join(asked)!r:.100}"
        )
    return known


def forbid_details(form: Mapping[str, str]) -> None:
    """Refuse what a person could not have read.

    Args:
        form: A form of a client for a task that a person consented to.

    Raises:
        OAuthError: ``invalid_request``: it asks for other parameters or tools.
    """
    if "authorization_details" in form:
        raise OAuthError("invalid_request", "authorization_details: leave it out: the person consented to the task")


def read_details(form: Mapping[str, str]) -> Details:
    """Return the one object of ``authorization_details``; without it, one that asks for nothing.

    Args:
        form: The form, with ``authorization_details`` or without.

    Raises:
        OAuthError: ``invalid_request``.
    """
    text = form.get("authorization_details")
    if text is None:
        return Details(DETAILS_TYPE)
    try:
        details: tuple[Details, ...] = _DETAILS.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise OAuthError(
            "invalid_request", f"authorization_details: expected a JSON list of one object of type {DETAILS_TYPE}"
        ) from None
    return details[0]


def session_for(
    mint: TaskParts, unit: UnitOfWork, born: Born, client: OAuthClient, opener: Opener
) -> AuthenticatedCaller:
    """Return the client's agent in its newest session that was opened as this one would be, or in a new one.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch that was read before client and opener were authenticated.
        client: The client.
        opener: The client's agent and the subject.

    Raises:
        GrantError: The policy refuses.
        RevokedError: The agent, the subject, the policy or a key is frozen.
    """
    key = client.session_key
    if client.jkt is not None:
        # Never one session for bound and bearer tokens: with a bearer token an attacker could go on with what the other
        # has begun, such as a call that waits for an approval, or a session of MCP.
        opener = opener._replace(by={**opener.by, **_PROVEN})
    rows = (row for row in mint.db.oauth_handles.sessions(client.id) if _is_opened_by(row, opener))
    on = next((row for row in rows if _goes_on(mint, born, row)), None)
    session = on or open_for(mint, unit, born, opener, key, ttl=None, purpose=None).row
    return AuthenticatedCaller("agent", client.agent, session, born, session.expires_at, key, opener.agent)


def is_proven(session: SessionRow) -> bool:
    """Return whether the access tokens of a session are bound to keys of their client."""
    return _PROVEN.items() <= (session.opened_with or {}).items()


def _is_opened_by(session: SessionRow, opener: Opener) -> bool:
    """Return whether a session has this credential and this subject, with the claims that the subject has now."""
    # Otherwise a client without a subject would go on with a session, and so with the rights, of another person.
    kept, wanted = {**(session.opened_with or {})}, {**opener.by}
    for by in (kept, wanted):
        if "consent" in by:
            by["consent"] = ""  # each consent has a login of the same person
    return kept == wanted and subject_of(session) == opener.subject


def _goes_on(mint: LivenessParts, born: Born, session: SessionRow) -> bool:
    """Return whether a session can have another task: it lives as long as an access token, and is not revoked."""
    if session.incarnation != born.incarnation or session.expires_at < now_ms() + LIFE_MS:
        return False
    try:
        mint.policy.may_open(session.agent, subject_of(session))
        mint.kills.require(Born(session.incarnation, session.born), session_targets(session))
    except RevokedError as error:
        if error.code == "frozen":
            raise  # another session would be an escape from the freeze
        return False
    except GrantError:
        return False
    return True


def grant_client_credentials(
    mint: HandleParts, unit: UnitOfWork, born: Born, client: OAuthClient, form: Mapping[str, str]
) -> Issued:
    """Start a task for a client's agent and issue an access token for it; see ``issue_in_session``."""
    return issue_in_session(mint, unit, born, client, opener_of(mint, client), form)
