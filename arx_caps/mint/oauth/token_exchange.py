# SPDX-License-Identifier: Apache-2.0
"""The grant ``token-exchange``: a narrower access token of one that a client holds.  CONTROL 5.7, RFC 8693.

The new one stands for the same task.  What it leaves is in caveats that are added to the task's token, so that no
verifier allows with it what it would not allow with the first, and each kill of the first meets it.  If another client
than that of the first asks, the task is delegated to its agent, also if both clients are one agent: a hop, as the
policy's ``depth`` and ``delegate_to`` allow, for the service of the first alone.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from arx_caps.credentials.access_token import AccessToken
from arx_caps.mint.context import Born, HandleParts, HasPolicy, HasRealm
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.oauth.client.client_proofs import prove_client_key
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.oauth.handles import Handle, Issued, find_handle, issue_handle, recipe_for
from arx_caps.mint.oauth.task_grant import Details, active_agent, audience_at, read_details, require_bound
from arx_caps.mint.policy.templates import overlap
from arx_caps.mint.tasks.reissue import reissue_tokens
from arx_caps.mint.tasks.token_exchange import prove_own
from arx_verifier.constraints.rule import Rule, read_rule
from arx_verifier.errors import ArxError
from arx_verifier.names import matches_tool
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat, read_caveat
from arx_verifier.token.macaroon import Macaroon

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a kind of grant
ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a kind of token
HOP_BYTES: Final = 9  # SPEC 5.2


def grant_token_exchange(
    mint: HandleParts,
    unit: UnitOfWork,
    born: Born,  # noqa: ARG001 - the task's own birth counts, so that a kill since then ends the new token too
    client: OAuthClient,
    form: Mapping[str, str],
) -> Issued:
    """Issue an access token that allows a part of what another one does.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: Not used.
        client: The client that asks, whose agent gets the task.
        form: ``subject_token``, its type and proof, ``resource``, ``scope`` and ``authorization_details``.

    Raises:
        OAuthError: ``invalid_request``, ``invalid_scope``, ``invalid_target`` or ``invalid_dpop_proof``.
        AccessError: The task may not be delegated to the client's agent, or no further.
        RevokedError: The task, an agent of its chain or a key was revoked or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    handle = _subject(mint, form)
    claims, template = handle.claims, mint.policy.templates.get(handle.claims.scope)
    if form.get("scope", claims.scope) != claims.scope or template is None or template.bearer_terms == "refuse":
        raise OAuthError(
            "invalid_scope", f"scope: expected {claims.scope}, as the subject token, which may be left out"
        )
    require_bound(mint, client, claims.scope)
    is_hop = handle.row.client != client.id
    _require_proof(mint, unit, client, claims, form)
    resource, audience = _target(mint, handle, form, is_hop=is_hop)
    recipe = recipe_for(handle.row.recipe, audience)
    details = read_details(form)
    if details.params:
        raise OAuthError("invalid_request", "authorization_details: params: those of the task cannot be changed")
    active_agent(mint, client)
    allow = _left(recipe["caveats"][audience], details)
    if is_hop or allow is not None:
        to, hop = (client.agent, wire.text_of(os.urandom(HOP_BYTES))) if is_hop else (None, None)
        own = Caveat(allow=allow, to=to, hop=hop)
        recipe["added"] = [*recipe.get("added", ()), own.encode().decode()]
    made = Macaroon.parse(reissue_tokens(mint, recipe, handle.session, claims.tid)[audience])
    child = prove_own(mint, made, audience, *mint.key_schedule.audience_key(audience))
    mint.kills.require(Born(*recipe["born"]), child.targets)
    recipe["targets"] = list(child.targets)
    if is_hop:
        recipe["last"] = child.facts.links[-1]
    unit.recipe = recipe
    return issue_handle(mint, unit, client, handle.task, resource=resource, audience=audience, of=claims, is_hop=is_hop)


def _subject(mint: HandleParts, form: Mapping[str, str]) -> Handle:
    if form.get("subject_token_type") != ACCESS_TOKEN_TYPE:
        raise OAuthError("invalid_request", f"subject_token_type: expected {ACCESS_TOKEN_TYPE}")
    if form.get("requested_token_type", ACCESS_TOKEN_TYPE) != ACCESS_TOKEN_TYPE:
        raise OAuthError("invalid_request", f"requested_token_type: expected {ACCESS_TOKEN_TYPE}, or leave it out")
    if {"actor_token", "actor_token_type"} & form.keys():
        raise OAuthError("invalid_request", "actor_token: leave it and its type out: the client that asks is the actor")
    if "audience" in form:
        raise OAuthError("invalid_target", "audience: leave it out, and send the URL of the service as resource")
    handle = find_handle(mint, form.get("subject_token", ""))
    if handle is None:
        raise OAuthError("invalid_request", "subject_token: expected an active access token of this mint")
    return handle


def _require_proof(
    mint: HasRealm, unit: UnitOfWork, client: OAuthClient, claims: AccessToken, form: Mapping[str, str]
) -> None:
    """Require that the key of a bound token is proven, and that what is exchanged for it is bound as well."""
    proof = form.get("subject_token_proof")
    if claims.cnf is None:
        if proof is not None:
            raise OAuthError("invalid_dpop_proof", "subject_token_proof: leave it out: the token is bound to no key")
        return
    if client.jkt is None:
        raise OAuthError("invalid_dpop_proof", "subject_token: it is bound to a key: send a proof (DPoP)")
    # Not by any key: what an attacker reads of a bound token must not become a token of the attacker's.
    proven = client.jkt if proof is None else prove_client_key(mint, unit, proof, form["subject_token"])
    if proven != claims.cnf.jkt:
        hint = "send DPoP by it, or a subject_token_proof of the client that has it"
        raise OAuthError(
            "invalid_dpop_proof", f"subject_token: expected a proof by the key that it is bound to: {hint}"
        )


def _target(mint: HasPolicy, handle: Handle, form: Mapping[str, str], *, is_hop: bool) -> tuple[str, str]:
    """Return the resource of the new token, and its audience."""
    resource = form.get("resource", handle.claims.aud)
    # The task's other services are for the client that has the task: the text of one token must not open them.
    if is_hop and resource != handle.claims.aud:
        hint = "the client of the subject token can exchange it for one of another service"
        raise OAuthError("invalid_target", f"resource: expected that of the subject token, or leave it out: {hint}")
    audience = audience_at(mint.policy, resource)
    if audience is None or audience not in handle.row.recipe["caveats"]:
        raise OAuthError("invalid_target", "resource: expected the URL of a service of the subject token's task")
    return resource, audience


def _left(caveats: Sequence[str], details: Details) -> tuple[Rule, ...] | None:
    """Return the rules that a client leaves; None to leave all.

    The task's own rules stay in the token, and a call must match one of each caveat's (SPEC 6.1): what a client writes
    here can only take away.
    """
    if details.tools is None and details.allow is None:
        return None
    if details.tools is not None and details.allow is not None:
        raise OAuthError("invalid_request", "authorization_details: expected tools or allow, got both")
    rules = read_caveat(caveats[0].encode()).allow or ()
    if details.allow is not None:
        return _narrower(details.allow, rules)
    left = tuple(rule for rule in rules if any(matches_tool(tool, rule.tool) for tool in details.tools or ()))
    if not left:
        raise OAuthError("invalid_request", "authorization_details: tools: expected some of the task's tools there")
    return left


def _narrower(written: Sequence[Mapping[str, Any]], rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules of a client, each for a tool of the task."""
    try:
        left = tuple(map(read_rule, written))
    except ArxError as error:
        raise OAuthError("invalid_request", f"authorization_details: allow: {error}") from error
    # A mistake in a name would otherwise be found at the call.
    odd = next((rule.tool for rule in left if not any(overlap(rule.tool, own.tool) for own in rules)), None)
    if not left or odd is not None:
        raise OAuthError(
            "invalid_request", f"authorization_details: allow: expected rules for the task's tools there, got {odd}"
        )
    return left
