# SPDX-License-Identifier: Apache-2.0
"""Explain what a policy grants to an agent, or why not and what it would take.

The policy itself decides; this module adds the places in its file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from arx_caps.mint.policy.approvals import show_terms
from arx_caps.mint.policy.budgets import split_budget
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.marks import show_marks
from arx_caps.mint.policy.members import as_written, members_of, write_member
from arx_caps.mint.policy.model import Policy, SessionTerms, TaskGrant, Template
from arx_caps.mint.policy.templates import overlap
from arx_caps.settings.durations import format_duration
from arx_caps.text.caveat_text import removals
from arx_verifier import names
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import Failure, GrantError, shorten
from arx_verifier.token.caveats import Caveat

MAX_OTHERS: Final = 3  # templates that a refusal names


class PolicyRefusal(NamedTuple):
    """The reason for which something is not granted.

    Attributes:
        code: The stable code of the mint's answer.
        why: The reason, a sentence.
        takes: The changes that would grant it, each with its place in the file.
    """

    code: str
    why: str
    takes: tuple[str, ...]


class Explained(NamedTuple):
    """A policy's answers to one question.

    Attributes:
        session: The terms on which the agent may open a session, or the refusal.
        task: The task's grant, or the refusal.
    """

    session: SessionTerms | PolicyRefusal
    task: TaskGrant | PolicyRefusal

    @property
    def granted(self) -> bool:
        """Whether the agent gets the task: a session, and the task in it."""
        return not isinstance(self.session, PolicyRefusal) and not isinstance(self.task, PolicyRefusal)


def explain_grant(
    policy: Policy,
    *,
    agent: str,
    task: str,
    params: Mapping[str, Any],
    ttl: str | None = None,
    tools: Sequence[str] | None = None,
    depth: int | None = None,
    subject: Subject | None = None,
) -> Explained:
    """Return whether a policy grants a session and a task in it, with reasons.

    Args:
        policy: The policy.
        agent: The agent's path.
        task: The template's name.
        params: Values for its parameters.
        ttl: A shorter lifetime, as a duration such as ``5m``.
        tools: Fewer tools.
        depth: Fewer delegations.
        subject: The subject on whose behalf the session runs, or None.

    Returns:
        Both answers.
    """
    session: SessionTerms | PolicyRefusal
    granted: TaskGrant | PolicyRefusal
    # The calls that the mint makes for a session and a task, so that an explanation cannot differ from a decision.
    try:
        session = policy.may_open(agent, subject)
    except GrantError as error:
        session = PolicyRefusal(error.code, str(error), _for_session(policy, agent, error.code))
    try:
        granted = policy.grant(task, agent, params, ttl=ttl, tools=tools, depth=depth, subject=subject)
    except GrantError as error:
        granted = PolicyRefusal(error.code, str(error), _for_task(policy, agent, task, error))
    return Explained(session, granted)


def show_explained(explained: Explained) -> dict[str, Any]:
    """Return an explanation as plain data."""
    session, task = explained.session, explained.task
    shown: dict[str, Any] = {"granted": explained.granted}
    shown["session"] = _refused(session) if isinstance(session, PolicyRefusal) else _session(session)
    shown["task"] = _refused(task) if isinstance(task, PolicyRefusal) else _task(task)
    return shown


def show_rule(rule: Rule) -> dict[str, Any]:
    """Return a rule as plain data, as a policy writes it."""
    if rule.args is None:
        return {"tool": rule.tool, "any": True}
    return {"tool": rule.tool, "args": {name: as_written(constraint) for name, constraint in rule.args.items()}}


def exchanges(services: Mapping[str, Sequence[str]]) -> list[str]:
    """Return which service may exchange its token for which audience, a text for each pair."""
    return [f"{service} for {target}" for service, targets in services.items() for target in targets]


def upstream_scopes(connections: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Return the scopes of calls at people's accounts, a text for each pattern of tools, with its place."""
    # The first pattern that matches counts.
    return [
        f"{name}: {place}. {pattern}: {' '.join(scopes)}"
        for name, tools in connections.items()
        for place, (pattern, scopes) in enumerate(tools.items(), 1)
    ]


def _for_session(policy: Policy, agent: str, code: str) -> tuple[str, ...]:
    fitting = [terms for terms in policy.sessions.values() if names.matches_any_path(terms.agents, agent)]
    if code == "session_not_allowed":
        additions = [f'add "{agent}" to `agents` of {_place(policy, "session", name)}' for name in policy.sessions]
        return (*additions, f'or write [session.NAME] with agents = ["{agent}"]')
    if code == "subject_required":
        asking = [terms.name for terms in fitting if terms.subject == "required"]
        return tuple(f'a subject, as {_place(policy, "session", name)} says subject = "required"' for name in asking)
    return tuple(
        f"a subject that matches `subjects` of {_place(policy, 'session', terms.name)}"
        if terms.subject != "none"
        else f'subject = "allowed" and `subjects` in {_place(policy, "session", terms.name)}'
        for terms in fitting
    )


def _for_task(policy: Policy, agent: str, task: str, error: GrantError) -> tuple[str, ...]:
    if task not in policy.templates:
        known = ", ".join(policy.templates) or "none"
        return (f"a task that the policy has: {known}",)
    place = _place(policy, "task", task)
    if error.code == "unknown_task":
        return (f'add "{agent}" to `agents` of {place}',)
    if error.code == "bad_parameters":
        return tuple(f"{failure.rule}: {failure.expected}; see {place}" for failure in error.failures)
    return (f"a session on behalf of a subject that matches `subjects` of {place}",)


def _place(policy: Policy, kind: str, name: str) -> str:
    """Return a table's name with its file and line."""
    # A single [session] has no name of its own in the file.
    path = (kind, name) if isinstance(policy.text.document[kind].get(name), dict) else (kind,)
    return f"[{'.'.join(path)}] ({policy.text.name}:{policy.text.line(path)})"


def _refused(refused: PolicyRefusal) -> dict[str, Any]:
    return {"granted": False, **refused._asdict()}


def _session(terms: SessionTerms) -> dict[str, Any]:
    members = members_of(terms).items()
    limits = {name: value for name, value in members if name not in _WHOM and value not in (None, "0ms")}
    return {"granted": True, "terms": terms.name, **limits}


_WHOM: Final = ("name", "agents", "subject", "subjects")  # not shown: the question named agent and subject


def _task(grant: TaskGrant) -> dict[str, Any]:
    shown: dict[str, Any] = {"granted": True, "template": grant.template, "ttl": format_duration(grant.ttl_ms)}
    shown |= {"depth": grant.depth, "delegate_to": list(grant.delegate_to)}
    if grant.is_bound:
        shown["binding"] = "bound"
    if grant.budgets:
        shown["budget"] = [
            f"{said} ({name})" for name, budget in grant.budgets.items() for said in split_budget(budget)
        ]
    if grant.marks:
        shown["marks"] = show_marks(grant.marks.get("marks", ()))
        shown["refuses"] = removals(Caveat(opened=0, **grant.marks))
    if grant.upstream:
        shown["upstream"] = [
            f"{scopes} ({name})" for name, tools in grant.upstream.items() for scopes in upstream_scopes(tools)
        ]
    if grant.exchange:
        shown["exchange"] = exchanges(grant.exchange)
    shown |= {name: write_member(Template, name, limit) for name, limit in grant.limits.items()}
    shown["audiences"] = {
        audience: {
            "origins": list(grant.origins[audience]),
            "allow": [show_rule(rule) for rule in rules],
            **(
                {"attenuated_to": [rule.tool for rule in grant.fewer_tools[audience]]}
                if grant.fewer_tools.get(audience)
                else {}
            ),
            **({"approvals": asked} if (asked := _approvals(grant, audience)) else {}),
        }
        for audience, rules in grant.rules.items()
    }
    return shown


def _approvals(grant: TaskGrant, audience: str) -> list[dict[str, Any]]:
    """Return the terms of the approvals that a call at an audience may need."""
    rules = grant.rules[audience]
    return [
        show_terms(terms)
        for terms in grant.approvals.get(audience, ())
        if any(overlap(tool, rule.tool) for tool in terms.tools for rule in rules)
    ]


def explain_refusal(
    policy: Policy, agent: str, template: str, error: GrantError, ask: Callable[[str], object]
) -> GrantError:
    """Return a refusal with the changes that would grant the task.

    Args:
        policy: The policy that refused.
        agent: The agent's path.
        template: The requested template.
        error: The refusal.
        ask: Requests another template with the same parameters; raises ``GrantError`` if that is refused.
    """
    # The answer goes to the agent: it may learn of templates that list it, and of nothing else in the policy.
    takes = [_take(template, failure) for failure in error.failures]
    if error.code == "unknown_task":
        takes = [f"a [task.NAME] called {shorten(template)} in the policy, with {agent} among its `agents`"]
    # Tried with the same parameters: a template that would refuse as well is no help.
    others = [name for name in _templates(policy, agent) if name != template and _grants(ask, name)][:MAX_OTHERS]
    if others:
        takes.append(f"or another template, which would grant it now: {', '.join(others)}")
    if not takes:
        return error
    return GrantError(f"{error}; it would take {'; '.join(takes)}", code=error.code, failures=error.failures)


def _take(template: str, failure: Failure) -> str:
    name, _, constraint = failure.rule.partition(" ")
    where = f"`params.{name}`" if constraint else f"`{name}`"
    return f"{where} of [task.{template}] in the policy to allow {failure.came}"


def _templates(policy: Policy, agent: str) -> list[str]:
    return [name for name, other in policy.templates.items() if names.matches_any_path(other.agents, agent)]


def _grants(ask: Callable[[str], object], template: str) -> bool:
    try:
        ask(template)
    except GrantError:
        return False
    return True
