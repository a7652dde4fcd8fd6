# SPDX-License-Identifier: Apache-2.0
"""The grant ``authorization_code``: a person's consent to a task, the code for it, and its access token.

Sources: CONTROL 5.8, RFC 6749 4.1, RFC 7636, RFC 8707.  The pages that ask are in ``mint.api.routes.authorize``.
"""

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.mint.context import (
    Born,
    ClientParts,
    HandleParts,
    HasDatabase,
    HasPolicy,
    LivenessParts,
    OAuthParts,
    RevokingParts,
)
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.approvals import ApprovalWithTask
from arx_caps.mint.db.tables import ConsentRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.issuer_token import IssuerToken
from arx_caps.mint.identity.session_login import Opener, subject_in, subject_targets
from arx_caps.mint.login.issuer_client import SECRET_BYTES, challenge_of, digest_of
from arx_caps.mint.login.oidc import PAGE_MS
from arx_caps.mint.oauth.client.clients import OAuthClient, client_of_row, find_client, require_row
from arx_caps.mint.oauth.client.redirects import fits_redirect
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.oauth.handle_approvals import find_unmade_calls
from arx_caps.mint.oauth.handles import Issued
from arx_caps.mint.oauth.refresh import new_refresh, terms_of
from arx_caps.mint.oauth.task_grant import (
    Wanted,
    active_agent,
    forbid_details,
    read_wanted,
    require_bound,
    session_for,
    start_and_issue,
)
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import SessionTerms
from arx_caps.mint.policy.tables import Template
from arx_caps.mint.tasks.revoke import end_session
from arx_caps.mint.tasks.token_factory import new_name
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from arx_verifier.token import wire
from arx_verifier.token.targets import agent_targets

CODE_MS: Final = 60_000  # a client redeems it at once
MAX_STATE_CHARS: Final = 1024
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636 4.2, of SHA-256; RFC 7638 thumbprints too
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_WRONG: Final = "the code is unknown, used, expired, or was given for another client, redirect URI, verifier or key"


class Consent(NamedTuple):
    """What a person is asked.

    Attributes:
        row: The row.
        client: The client.
        templates: The templates of the task: those that the person may have; of several, the person chooses.
        subject: The person.
        params: The parameters that the client chose; with several templates, by template.
        tools: The tools that the client wants; None for all.
        terms: The terms of the session.
        calls: What the client has called for the person and an operator has to approve, with the approvals' states.
    """

    row: ConsentRow
    client: OAuthClient
    templates: tuple[Template, ...]
    subject: Subject
    params: dict[str, Any]
    tools: tuple[str, ...] | None
    terms: SessionTerms
    calls: Sequence[tuple[ApprovalWithTask, str]]

    def params_of(self, template: str) -> dict[str, Any]:
        """Return the parameters of one of the templates that the client chose."""
        found = self.params if len(self.templates) == 1 else self.params.get(template)
        return found if isinstance(found, dict) else {}


def find_redirect(mint: ClientParts, form: Mapping[str, str]) -> tuple[OAuthClient, str]:
    """Return the client of an authorization request, and the redirect URI that errors may go to.

    Raises:
        OAuthError: Either is not registered: the person learns of it, and no redirect follows.
    """
    client = find_client(mint, form.get("client_id", ""), is_new=True)
    if client is None:
        raise OAuthError("invalid_request", f"the client {form.get('client_id', '')!r:.100} is not registered")
    redirect = form.get("redirect_uri", "")
    if not fits_redirect(redirect, client.redirects):
        text = f"the redirect URI {redirect!r:.200} is not registered for the client {client.client_id:.200}"
        raise OAuthError("invalid_request", text)
    return client, redirect


def read_request(mint: HasPolicy, client: OAuthClient, form: Mapping[str, str]) -> Wanted:
    """Return what an authorization request asks for.

    Raises:
        OAuthError: It asks for what the client may not have, or without PKCE.
    """
    if form.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type: expected code")
    if form.get("response_mode", "query") != "query" or "request" in form or "request_uri" in form:
        raise OAuthError("invalid_request", "expected neither request, request_uri nor another response_mode")
    if form.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(form.get("code_challenge", "")):
        raise OAuthError("invalid_request", "expected code_challenge with code_challenge_method S256 (RFC 7636)")
    if "dpop_jkt" in form and not _CHALLENGE.fullmatch(form["dpop_jkt"]):
        raise OAuthError("invalid_request", "dpop_jkt: expected the SHA-256 thumbprint of a key (RFC 9449 10)")
    if len(form.get("state", "")) > MAX_STATE_CHARS:
        raise OAuthError("invalid_request", f"state: expected at most {MAX_STATE_CHARS} characters")
    # The person chooses, so a client may leave it open.
    return read_wanted(mint, client, {"scope": " ".join(client.scopes), **form})


def ask(mint: ClientParts, born: Born, token: IssuerToken, form: Mapping[str, str]) -> bytes:
    """Store what a person is to be asked, and return the secret of the browser that may answer.

    Args:
        mint: The mint.
        born: The position in the kill epoch before the person's login was verified.
        token: The person's verified ID token.
        form: The client's authorization request.

    Raises:
        OAuthError: As ``find_redirect`` and ``read_request``; ``access_denied``: the policy refuses this person.
    """
    client, redirect = find_redirect(mint, form)
    wanted, policy = read_request(mint, client, form), mint.policy
    subject = subject_in(policy, token)
    names = allowed_of(mint, client.agent, wanted.scope, subject)
    params = wanted.params if names == wanted.scope else _params_of(wanted.params, names.split(" "))
    client = require_row(mint, client)
    secret = secrets.token_bytes(SECRET_BYTES)
    row = ConsentRow(
        id=new_name("o-"),
        cookie=digest_of(secret),
        client=client.id,
        redirect=redirect,
        challenge=form["code_challenge"],
        resource=wanted.resource,
        audience=wanted.audience,
        template=names,
        params=params,
        policy=policy.digest,
        incarnation=born.incarnation,
        born=born.seq,
        until=now_ms() + PAGE_MS,
        state=form.get("state"),
        jkt=form.get("dpop_jkt"),
        tools=wanted.tools,
        subject_issuer=subject.issuer,
        subject=subject.name,
        subject_claims={**subject.claims},
        subject_until=token.expires_at,
    )
    mint.db.oauth_consents.add(row)
    return secret


def find_consent(mint: OAuthParts, secret: bytes) -> Consent:
    """Return what a browser's person is asked.

    Raises:
        OAuthError: Nothing, or not any more: it was answered, is too old, or the policy has changed.
    """
    row = mint.db.oauth_consents.find(digest_of(secret))
    client = None if row is None else client_of_row(mint, row.client)
    if row is None or client is None or row.code is not None or row.until <= now_ms():
        raise OAuthError("invalid_request", "there is nothing to consent to: it was answered, or is too old")
    # What the page shows must be what the task gets.
    if row.policy != mint.policy.digest:
        raise OAuthError("invalid_request", "the policy has changed in the meantime")
    subject = _subject(row)
    names = row.template.split(" ")
    # The first for all: under one policy, each was allowed when the person was asked.
    terms = require_allowed(mint, client.agent, names[0], subject)
    wanted = Wanted.of_row(row)
    templates = tuple(mint.policy.templates[name] for name in names)
    calls = find_unmade_calls(mint, client, subject)
    return Consent(row, client, templates, subject, wanted.params, wanted.tools, terms, calls)


def give_consent(mint: LivenessParts, consent: Consent, scope: str, params: Mapping[str, Any]) -> str:
    """Return the code for a consent, a secret.

    Args:
        mint: The mint.
        consent: What the person was asked.
        scope: The names of the templates that the person chose of them, with a space between.
        params: All parameters of the task, with those that the person chose.

    Raises:
        GrantError: The policy refuses them.
        OAuthError: The person has answered already.
    """
    row, agent = consent.row, consent.client.agent
    mint.policy.grant(scope, agent, params, tools=consent.tools, subject=consent.subject)
    code = wire.text_of(secrets.token_bytes(SECRET_BYTES))
    # Neither parameters nor person: the events of session and task have them, where they can be erased.
    facts = {"consent": row.id, "client": row.client, "template": scope, "resource": row.resource}
    what = Event.of("consent.given", f"agent:{agent}", **facts)
    until, digest = now_ms() + CODE_MS, digest_of(code)
    given = msgspec.structs.replace(row, code=digest, template=scope, params={**params}, until=until)
    if not mint.db.oauth_consents.give(given, what):
        raise OAuthError("invalid_request", "there is nothing to consent to: it was answered, or is too old")
    return code


def deny_consent(mint: HasDatabase, consent: Consent) -> None:
    """Forget what a person refused."""
    what = Event.of("consent.denied", f"agent:{consent.client.agent}", consent=consent.row.id)
    mint.db.oauth_consents.deny(consent.row.id, what)


def grant_authorization_code(
    mint: HandleParts, unit: UnitOfWork, born: Born, client: OAuthClient, form: Mapping[str, str]
) -> Issued:
    """Open a session on behalf of the person who consented, start the task, and issue its access token.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch that was read before the client was authenticated.
        client: The client.
        form: ``code``, ``code_verifier``, and ``redirect_uri`` and ``resource`` if the client repeats them.

    Raises:
        OAuthError: ``invalid_grant``: the code is wrong or was used, and then what it gave is ended.
        GrantError: The policy refuses.
        RevokedError: What the consent depends on was killed since, or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    forbid_details(form)
    consents = mint.db.oauth_consents
    row = consents.by_code(digest_of(form.get("code", "")))
    if row is None or row.client != client.id:
        raise OAuthError("invalid_grant", _WRONG)
    if row.used_at is not None or not _proves(row, form, client) or row.until <= now_ms():
        if row.used_at is not None:
            _end_replayed(mint, row)
        raise OAuthError("invalid_grant", _WRONG)
    if form.get("resource", row.resource) != row.resource:
        raise OAuthError("invalid_target", "resource: expected that of the authorization request")
    # Born with the consent: a kill of the agent or the person since then ends what it could give.
    subject = _subject(row)
    targets = ("realm", *agent_targets(client.agent), *subject_targets(subject))
    mint.kills.require(Born(row.incarnation, row.born), targets)
    agent = active_agent(mint, client)
    if row.policy != mint.policy.digest:
        raise OAuthError("invalid_grant", "the policy has changed since the consent")
    require_bound(mint, client, row.template)
    if not consents.use(row.id):
        _end_replayed(mint, row)
        raise OAuthError("invalid_grant", _WRONG)
    opener = Opener(agent, {"client": client.id, "consent": row.id}, subject, row.subject_until, client.expires_at)
    # In the session that the person has opened for this client, if it goes on: stock clients give up when a step-up or
    # a new login ends their session of MCP, which a gateway binds to it.
    caller = session_for(mint, unit, born, client, opener)
    session = caller.session
    assert session is not None
    if not consents.bind(row.id, session.id):
        end_session(mint.db, mint.revoker, session, f"agent:{client.agent}")
        raise OAuthError("invalid_grant", _WRONG)
    issued, task = start_and_issue(mint, unit, client, caller, Wanted.of_row(row))
    terms = terms_of(mint, row.template)
    return issued._replace(refresh=new_refresh(mint, client, session, row, terms, task))


def _params_of(params: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of some templates, of those of several; in the form for one if it is one."""
    kept = {name: params[name] for name in names if isinstance(params.get(name), dict)}
    return kept if len(names) > 1 else kept.get(names[0], {})


def allowed_of(mint: HasPolicy, agent: str, scope: str, subject: Subject) -> str:
    """Return the names of those templates that an agent may have on behalf of a person.

    Raises:
        OAuthError: ``access_denied``: the policy refuses all.
    """
    names, refused = [], None
    for name in scope.split(" "):
        try:
            require_allowed(mint, agent, name, subject)
            names.append(name)
        except OAuthError as error:
            refused = error
    if refused is not None and not names:
        raise refused
    return " ".join(names)


def require_allowed(mint: HasPolicy, agent: str, template: str, subject: Subject) -> SessionTerms:
    """Return the terms of a session in which an agent may have a task on behalf of a person.

    Raises:
        OAuthError: ``access_denied``: the policy refuses.
    """
    try:
        terms = mint.policy.may_open(agent, subject)
        mint.policy.require_startable(template, agent, subject)
    except GrantError:
        raise OAuthError("access_denied", "the policy lets the agent do this for none or for other people") from None
    return terms


def _proves(row: ConsentRow, form: Mapping[str, str], client: OAuthClient) -> bool:
    """Return whether a request has the verifier and, if one was named, the key of the authorization request.

    Its redirect URI may be left out (OAuth 2.1 10.2): the verifier is known to the client that made the request alone.
    """
    verifier = form.get("code_verifier", "")
    if row.jkt is not None and row.jkt != client.jkt:
        return False
    if _VERIFIER.fullmatch(verifier) is None or form.get("redirect_uri", row.redirect) != row.redirect:
        return False
    return hmac.compare_digest(challenge_of(verifier), row.challenge)


def _end_replayed(mint: RevokingParts, row: ConsentRow) -> None:
    # RFC 6749 4.1.2: one of the two who used it is an attacker, and the mint cannot know which.
    name = mint.db.oauth_consents.replay(row.id)
    session = None if name is None else mint.db.sessions.find(name)
    if session is not None:
        end_session(mint.db, mint.revoker, session, f"agent:{session.agent}")


def _subject(row: ConsentRow) -> Subject:
    # Only a used code has none.
    return Subject(row.subject_issuer or "", row.subject or "", row.subject_claims or {})
