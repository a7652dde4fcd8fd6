# SPDX-License-Identifier: Apache-2.0
"""What the policy answers about a call whose caller has shown no credential.  CONTROL 5.14.

The token that the agent would get for the call is made and judged, and never leaves the mint.  So the answer cannot
differ from the decision on a call with it.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.policy.model import Policy, Template
from arx_caps.mint.tasks.token_factory import caveats_of, keys_for, sign_tokens
from arx_caps.mint.tasks.trial_token import judge_token, trial_birth
from arx_verifier import names
from arx_verifier.errors import Failure, GrantError, shorten
from arx_verifier.journal import OK
from arx_verifier.request import AccessRequest
from arx_verifier.token import KeyRing

# Others are of what the policy does not have for this agent.
_CODES: Final = {"bad_parameters": "argument_not_allowed", "subject_required": "proof_missing"}


class PolicyAnswer(NamedTuple):
    """The answer about one call.

    Attributes:
        code: ``ok``, or a key of ``REASONS``.
        failures: The expected and the received values.
        detail: What else a person should know of a refusal; or None.
    """

    code: str
    failures: tuple[Failure, ...] = ()
    detail: str | None = None


def judge_asserted(mint: MintContext, agent: str, audience: str, request: AccessRequest) -> PolicyAnswer:
    """Return whether an agent may have a task that allows a call, and needs no proof for it.

    Args:
        mint: The mint.
        agent: The agent's path, as another one says that it authenticated it.
        audience: The service that asks.
        request: The call.

    Raises:
        UnavailableError: The kill epoch is unknown now.
    """
    born, policy = mint.born(), mint.policy
    row = mint.db.agents.find(agent)
    if row is None or row["status"] != "active":
        return PolicyAnswer("frozen", detail=f"expected an agent that is enrolled and active, got {shorten(agent)}")
    try:
        policy.may_open(agent)
    except GrantError as error:
        return _refused(error)
    refused: PolicyAnswer | None = None
    for template in policy.templates.values():
        if audience not in template.audiences or not names.matches_any_path(template.agents, agent):
            continue
        for params in _params(template, audience, request):
            judged = _judge(mint, born, row, policy, template, params, audience, request)
            if judged.code == OK:
                return judged
            refused = refused or judged
    return refused or PolicyAnswer("tool_not_allowed", detail=f"no task of {agent} has {shorten(request.tool)}")


def _params(template: Template, audience: str, request: AccessRequest) -> list[dict[str, Any]]:
    """Return the parameters with which a template's rules for a tool could allow these arguments, by rule."""
    # An argument that is a parameter gives its value. The grant refuses what is then missing or not allowed.
    return [
        {
            written[1:]: request.args[name]
            for name, written in (rule.args or {}).items()
            if name in request.args and isinstance(written, str) and written.startswith("$")
            if written[1:] in template.params
        }
        for rule in template.rules
        if rule.at == audience and names.matches_tool(rule.tool, request.tool)
    ]


def _judge(
    mint: MintContext,
    born: Born,
    agent: Mapping[str, Any],
    policy: Policy,
    template: Template,
    params: Mapping[str, Any],
    audience: str,
    request: AccessRequest,
) -> PolicyAnswer:
    # The terms by which a task may be held without a key, or is judged with the newest kills alone.
    if template.bearer_terms != "allow" or template.fresh == 0:
        return PolicyAnswer("proof_missing", detail=f"task {template.name} is for calls with a credential alone")
    try:
        grant = policy.grant(template.name, str(agent["path"]), params)
        # From the beginning of the history: no new task ends a kill that is in force.
        birth = trial_birth(policy, grant, agent, born._replace(seq=0), request.at, mint.realm.max_ttl_ms)
        keys = keys_for(mint, [audience])
        needs = {audience: [terms.tools for terms in grant.approvals.get(audience, ())]}
        token = sign_tokens(mint, birth, {audience: caveats_of(grant, request.at)[audience]}, keys, needs)[audience]
    except GrantError as error:
        return _refused(error)
    ring = KeyRing(dict([keys[audience]]), realm=mint.realm.name, max_ttl_ms=mint.realm.max_ttl_ms)
    decision = judge_token(audience, ring, mint.epochs, token, request)
    return PolicyAnswer(decision.code, tuple(decision.all_failures()))


def _refused(error: GrantError) -> PolicyAnswer:
    return PolicyAnswer(_CODES.get(error.code, "tool_not_allowed"), tuple(error.failures), str(error))
