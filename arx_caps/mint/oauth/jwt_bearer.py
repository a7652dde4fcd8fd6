# SPDX-License-Identifier: Apache-2.0
"""The grant ``jwt-bearer``: a token of an issuer that the policy trusts proves the agent or the subject.  CONTROL 5.6.

A workload's token (RFC 7523) proves that the client is its agent.  An identity assertion (ID-JAG,
draft-ietf-oauth-identity-assertion-authz-grant) names the subject on whose behalf the client's agent acts.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from arx_caps.mint.context import Born, ClientParts, OAuthParts
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.issuer_token import IssuerToken, is_identity_assertion, verify_issuer_token
from arx_caps.mint.identity.session_login import Opener, agent_of_workload, subject_in
from arx_caps.mint.oauth.client.clients import OAuthClient, authenticate_client, named_client
from arx_caps.mint.oauth.errors import OAuthCode, OAuthError
from arx_caps.mint.oauth.handles import Issued
from arx_caps.mint.oauth.task_grant import issue_in_session, opener_of
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ID_JAG_PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"
MAX_JTI_CHARS: Final = 256
_BOUNDS: Final[Mapping[str, OAuthCode]] = {"scope": "invalid_scope", "resource": "invalid_target"}


def grant_jwt_bearer(
    mint: OAuthParts, unit: UnitOfWork, born: Born, client: OAuthClient, form: Mapping[str, str]
) -> Issued:
    """Start a task for the agent or the subject that an assertion proves, and issue an access token for it.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which an identity assertion is used.
        born: The position in the kill epoch that was read before the client was authenticated.
        client: The client, as ``client_of_assertion`` returns it.
        form: ``assertion``, and what ``issue_in_session`` reads.

    Raises:
        OAuthError: ``invalid_grant``: the assertion is for another client or was used; else as ``issue_in_session``.
        GrantError: The assertion is not valid, or the policy refuses.
        RevokedError: The agent, the subject, the policy or a key is frozen.
        UnavailableError: The kill epoch, or the issuer's keys, are unknown now.
    """
    token = form.get("assertion", "")
    if not token:
        raise OAuthError("invalid_request", "assertion: expected a token of an issuer that the policy trusts")
    if is_identity_assertion(token):
        opener, form = _by_subject(mint, unit, client, token, form)
    else:
        opener = _by_workload(mint, client, token)
    return issue_in_session(mint, unit, born, client, opener, form)


def client_of_assertion(
    mint: ClientParts, unit: UnitOfWork, form: Mapping[str, str], authorization: str | None
) -> OAuthClient:
    """Return the client of this grant: an authenticated one, or one that ``client_id`` alone names.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        form: The form.
        authorization: The header ``Authorization``, or None.

    Raises:
        OAuthError: ``invalid_client``, as ``authenticate_client`` raises it.
    """
    # A workload has no secret: its token proves the agent, and with it the client, which is that agent.
    if authorization is None and not {"client_secret", "client_assertion"} & form.keys():
        return named_client(mint, form.get("client_id", ""))
    return authenticate_client(mint, unit, form, authorization)


def _by_workload(mint: ClientParts, client: OAuthClient, token: str) -> Opener:
    verified = _verify(mint, client, token, "workload")
    # One text, so that a workload does not learn which agent another client is.
    if agent_of_workload(mint.policy, verified) != client.agent:
        raise OAuthError("invalid_grant", "assertion: expected the token of a workload that is the client's agent")
    if not client.proven:
        mint.limits.count_agent(client.agent)
    return opener_of(mint, client, {"issuer": verified.issuer.url, "sub": verified.subject})


def _by_subject(
    mint: ClientParts, unit: UnitOfWork, client: OAuthClient, token: str, form: Mapping[str, str]
) -> tuple[Opener, Mapping[str, str]]:
    """Return the opener, and the form within the bounds of the assertion."""
    if not client.proven:
        raise OAuthError("invalid_client", "an identity assertion is accepted from an authenticated client alone")
    verified = _verify(mint, client, token, "id_jag")
    claims = verified.claims
    # Both are of the one client and the one mint: another service that got the assertion cannot use it here.
    if claims.get("client_id") != client.id or claims.get("aud") not in (mint.realm.issuer, [mint.realm.issuer]):
        raise OAuthError("invalid_grant", "assertion: expected the client as client_id, and this issuer alone as aud")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARS:
        raise OAuthError("invalid_grant", f"assertion: jti: expected 1 to {MAX_JTI_CHARS} characters")
    form = _within(claims, form)
    try:
        unit.spend("id-jag", verified.issuer.url, jti, verified.expires_at)
    except GrantError as error:
        raise OAuthError("invalid_grant", "assertion: it was used before") from error
    return opener_of(mint, client, None, subject_in(mint.policy, verified), verified.expires_at), form


def _within(claims: Mapping[str, Any], form: Mapping[str, str]) -> Mapping[str, str]:
    """Return the form; what it leaves out is what the assertion says, and what it asks for must be in there."""
    whole = dict(form)
    for name, error in _BOUNDS.items():
        if name not in claims:
            continue
        said = claims[name]
        listed = said if isinstance(said, list) else str(said).split(" ")
        if len(listed) == 1:
            whole.setdefault(name, str(listed[0]))
        if whole.get(name) not in listed:
            raise OAuthError(error, f"{name}: expected one that the assertion names")
    return whole


def _verify(mint: ClientParts, client: OAuthClient, token: str, kind: Literal["workload", "id_jag"]) -> IssuerToken:
    # A token that is bound to a key (``cnf``) is refused without a proof by that key.
    jkt = client.jkt or ""
    return verify_issuer_token(token, mint.policy.issuers, mint.issuer_keys, kind=kind, now=now_ms(), session_kid=jkt)
