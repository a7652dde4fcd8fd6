# SPDX-License-Identifier: Apache-2.0
"""Ask a policy whether a task, and a call in it, would be allowed; keep such questions as tests.  CONTROL 6.5.

The call is judged by a verifier, with a token as the task would have and without the proof that a real call carries.
That token is made with a key of its own and never leaves this module.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.policy.approvals import show_terms
from arx_caps.mint.policy.explain import PolicyRefusal, explain_grant, show_explained
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_caps.mint.tasks.token_factory import caveats_of
from arx_caps.mint.tasks.trial_token import judge_token, trial_birth
from arx_verifier import names
from arx_verifier.errors import refusal
from arx_verifier.journal import OK
from arx_verifier.request import AccessRequest
from arx_verifier.token import Macaroon

Text = Annotated[str, Meta(min_length=1, max_length=256)]
_KID: Final = "question.0"


class SubjectSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The subject on whose behalf the session would run."""

    issuer: Text
    name: Text
    claims: dict[str, Any] = {}


class PolicyQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether an agent would get a task, and with ``tool`` whether a call in it would be allowed."""

    agent: Text
    task: Text
    params: dict[str, Any] = {}
    subject: SubjectSaid | None = None
    tool: Text | None = None
    args: dict[str, Any] = {}


class PolicyReply(NamedTuple):
    """A policy's answer to a question.

    Attributes:
        code: ``ok``, or the code of the refusal.
        why: The refusal as a sentence; None if it is allowed.
        explained: What the session and the task would be, or the changes that would grant them.
        audience: Where the call would go; None without a call, or without a task.
        approval: The terms of the approval that the call needs, or None.
    """

    code: str
    why: str | None
    explained: dict[str, Any]
    audience: str | None = None
    approval: dict[str, Any] | None = None


def ask_policy(mint: MintContext, policy: Policy, question: PolicyQuestion) -> PolicyReply:
    """Return what a policy answers.

    Args:
        mint: The mint.
        policy: The policy, in force or not.
        question: The question.

    Raises:
        UnavailableError: The kill epoch is unknown now.
    """
    said = question.subject
    subject = Subject(said.issuer, said.name, said.claims) if said is not None else None
    explained = explain_grant(policy, agent=question.agent, task=question.task, params=question.params, subject=subject)
    shown = show_explained(explained)
    for part in explained:
        if isinstance(part, PolicyRefusal):
            return PolicyReply(part.code, part.why, shown)
    assert isinstance(explained.task, TaskGrant)
    if question.tool is None:
        return PolicyReply(OK, None, shown)
    return _judge(mint, policy, explained.task, question, subject, shown)


def _judge(
    mint: MintContext,
    policy: Policy,
    grant: TaskGrant,
    question: PolicyQuestion,
    subject: Subject | None,
    shown: dict[str, Any],
) -> PolicyReply:
    first: PolicyReply | None = None
    tool = str(question.tool)
    # A service that has a rule for the tool is asked first: its refusal says what is wrong with the arguments.
    fitting = sorted(grant.rules, key=lambda name: not any(names.matches_tool(r.tool, tool) for r in grant.rules[name]))
    for audience in fitting:
        code, why = _decide(mint, policy, grant, audience, question, subject)
        needed = [
            terms
            for terms in grant.approvals.get(audience, ())
            if any(names.matches_tool(pattern, tool) for pattern in terms.tools)
        ]
        approval = show_terms(needed[0]) if needed and code == OK else None
        reply = PolicyReply(code, why, shown, audience, approval)
        if code == OK:
            return reply
        first = first or reply
    return first or PolicyReply("tool_not_allowed", "the task is for no service", shown)


def _decide(
    mint: MintContext,
    policy: Policy,
    grant: TaskGrant,
    audience: str,
    question: PolicyQuestion,
    subject: Subject | None,
) -> tuple[str, str | None]:
    now, key = now_ms(), secrets.token_bytes(32)
    agent: Mapping[str, Any] = {"path": question.agent, "metadata": "{}", "owner": None}
    birth = trial_birth(mint, policy, grant, agent, mint.born(), now, subject)
    # Without the proof of a call and a budget: the question is what the policy allows, and not who sends it, nor what
    # a task has spent.
    caveats = tuple(
        msgspec.structs.replace(each, require=None, fresh=None)
        for each in caveats_of(grant, now)[audience]
        if each.spend is None
    )
    token = Macaroon.mint(birth.identifier(audience, _KID, key), key=key, realm=mint.realm.name, caveats=caveats)
    request = AccessRequest(str(question.tool), question.args, now)
    decision = judge_token(mint, audience, (_KID, key), token.encode(), request)
    if decision.code == OK:
        return OK, None
    return decision.code, str(refusal(decision.code, tuple(decision.all_failures())))
