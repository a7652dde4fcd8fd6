# SPDX-License-Identifier: Apache-2.0
"""The grant ``refresh_token``: the next task in a consented session, which it renews.  CONTROL 5.9, RFC 6749 6."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final, NoReturn

from arx_caps.mint.context import Born, HasDatabase, HasPolicy, OAuthParts, RevokingParts
from arx_caps.mint.db.tables import ConsentRow, RefreshRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.session_login import subject_of, subject_targets
from arx_caps.mint.login.issuer_client import digest_of
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.oauth.handles import Issued
from arx_caps.mint.oauth.task_grant import (
    Wanted,
    active_agent,
    forbid_details,
    is_proven,
    require_bound,
    start_and_issue,
)
from arx_caps.mint.tasks.liveness import session_targets
from arx_caps.mint.tasks.revoke import end_session, finish_task
from arx_caps.mint.tasks.sessions import renew_session
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, refusal
from arx_verifier.jcs import jcs
from arx_verifier.token import wire

REFRESH_PREFIX: Final = "arxr1_"  # secret scanners find leaked ones by it
REFRESH_BYTES: Final = 32
REPEAT_MS: Final = 30_000  # a client that got no answer asks again within its timeout
_WRONG: Final = "the refresh token is unknown, used, expired, or another client's"


def new_refresh(
    mint: RevokingParts,
    client: OAuthClient,
    session: SessionRow,
    about: ConsentRow | RefreshRow,
    terms: str,
    task: TaskRow,
    parent: str | None = None,
) -> str:
    """Return a new refresh token, a secret; that of a public client is bound to the key of its proof.  RFC 9449 5.

    Args:
        mint: The mint.
        client: The client.
        session: The session's row.
        about: The row of the consent, or of the refresh token before, for the same task.
        terms: The digest of the task's templates, as ``terms_of`` returns it.
        task: The row of the task that is started with it.
        parent: The digest of the token in exchange for which it is given; None for the first of a session.

    Raises:
        OAuthError: ``invalid_grant``: another token that was given for the same parent was used; the session is ended.
        StoreError: The outcome is not known: retry.
    """
    token = REFRESH_PREFIX + wire.text_of(secrets.token_bytes(REFRESH_BYTES))
    row = RefreshRow(
        digest=digest_of(token),
        client=client.id,
        session=session.id,
        resource=about.resource,
        audience=about.audience,
        template=about.template,
        terms=terms,
        params=about.params,
        tools=about.tools,
        # A client with a credential proves itself at each use, and may change the key.
        jkt=client.jkt if client.public else None,
        until=session.ends_at,
        task=task.id,
        parent=parent,
    )
    replaced = mint.db.oauth_refreshes.add(row)
    if replaced is None:
        _end_reused(mint, session)
    # The access token of the answer that was lost, or that a thief has, ends with its refresh token.
    for name in replaced:
        if (other := mint.db.tasks.find(name)) is not None:
            finish_task(mint.db, mint.revoker, other, f"agent:{session.agent}")
    return token


def terms_of(mint: HasPolicy, template: str) -> str:
    """Return a digest of a task's templates as the policy writes them: a person consents to that text alone."""
    tables = mint.policy.text.document["task"]
    written = [tables.get(name, tables) for name in template.split(" ")]
    return hashlib.sha256(jcs(written[0] if len(written) == 1 else written)).hexdigest()


def find_refresh(mint: HasDatabase, token: str) -> RefreshRow | None:
    """Return the row of a refresh token, or None."""
    return mint.db.oauth_refreshes.find(digest_of(token))


def grant_refresh_token(
    mint: OAuthParts, unit: UnitOfWork, born: Born, client: OAuthClient, form: Mapping[str, str]
) -> Issued:
    """Renew a consented session, start its next task, and issue an access token and the next refresh token.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch that was read before the client was authenticated.
        client: The client.
        form: ``refresh_token``, and ``scope`` and ``resource`` if the client repeats them.

    Raises:
        OAuthError: ``invalid_dpop_proof``: the session began with a proof, and this request has none;
            ``invalid_grant``: the refresh token is wrong; or it was used and this is no repeat of the last
            use, and then the session is ended.
        GrantError: The policy refuses; ``rate_limited``: a person's public clients refresh too often.
        RevokedError: A target of the session was killed or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    forbid_details(form)
    row = find_refresh(mint, form.get("refresh_token", ""))
    session = None if row is None else mint.db.sessions.find(row.session)
    if row is None or session is None or row.client != client.id:
        raise OAuthError("invalid_grant", _WRONG)
    # Before it counts as used again: a thief without the key must not end the person's session.
    if row.jkt is not None and row.jkt != client.jkt:
        raise OAuthError("invalid_grant", "the refresh token is bound to a key: send a proof by it (DPoP)")
    if client.jkt is None and is_proven(session):
        raise OAuthError("invalid_dpop_proof", "the access tokens of this session are bound to a key: send DPoP")
    for person in subject_targets(subject_of(session)) if client.public else ():
        mint.limits.count_person(person)
    # Whether it was replaced, or a token that was given for it was used, ``new_refresh`` finds out, under a lock.
    if row.used_at is not None and now_ms() - row.used_at >= REPEAT_MS:
        _end_reused(mint, session)
    if session.status != "open" or session.expires_at <= now_ms():
        raise OAuthError("invalid_grant", "the session is over")
    if form.get("resource", row.resource) != row.resource:
        raise OAuthError("invalid_target", "resource: expected that of the authorization request")
    names = set(row.template.split(" "))
    # Stock clients repeat what they asked for, and not what the person chose of it.
    if not names <= {*form.get("scope", row.template).split()}:
        raise OAuthError("invalid_scope", f"scope: expected {row.template}, which may be left out")
    if not names <= mint.policy.templates.keys() or terms_of(mint, row.template) != row.terms:
        raise OAuthError("invalid_grant", "the policy has changed the task since the consent")
    require_bound(mint, client, row.template)
    agent = active_agent(mint, client)
    # From the session's birth: a kill since then has ended it.
    if session.incarnation != born.incarnation:
        raise refusal("revoked")
    mint.kills.require(Born(session.incarnation, session.born), session_targets(session))
    mint.db.oauth_refreshes.use(row.digest)
    key = client.session_key
    caller = AuthenticatedCaller("agent", client.agent, session, born, session.expires_at, key, agent)
    try:
        session = renew_session(mint, unit, caller).row
    except GrantError as error:
        raise OAuthError("invalid_grant", str(error)) from error
    caller = AuthenticatedCaller("agent", client.agent, session, born, session.expires_at, key, agent)
    issued, task = start_and_issue(mint, unit, client, caller, Wanted.of_row(row))
    return issued._replace(refresh=new_refresh(mint, client, session, row, row.terms, task, row.digest))


def _end_reused(mint: RevokingParts, session: SessionRow) -> NoReturn:
    """End the session of a refresh token that came twice, and refuse.

    Raises:
        OAuthError: ``invalid_grant``.
    """
    # RFC 9700 4.14: one of the two who used it is a thief, and the mint cannot know which.
    end_session(mint.db, mint.revoker, session, f"agent:{session.agent}")
    raise OAuthError("invalid_grant", _WRONG)
