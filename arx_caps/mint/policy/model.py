# SPDX-License-Identifier: Apache-2.0
"""The policy as an object: which agents may open sessions, and what each task grants.

``parse`` and ``tables`` read its TOML; tokens are made in ``tasks``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace

from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.budgets import Budget
from arx_caps.mint.policy.issuers import Subject, fits_subject
from arx_caps.mint.policy.marks import CARRY_MS, rows_of
from arx_caps.mint.policy.members import in_tokens
from arx_caps.mint.policy.tables import SessionTerms, Template, read_document, without_mistakes
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_caps.settings.durations import duration_within, format_duration
from arx_caps.settings.toml_file import MAX_MISTAKES, TomlEntry, TomlError, TomlText, read_toml
from arx_verifier import jcs, names
from arx_verifier.constraints.rule import Rule, explain
from arx_verifier.constraints.scalars import is_integer
from arx_verifier.errors import Failure, GrantError, MalformedTokenError, RequestError, SettingsError, shorten
from arx_verifier.token import wire

__all__ = ["Policy", "SessionTerms", "TaskGrant", "Template"]

CODE: Final = "policy"  # of errors about a policy, or about questions to one
MAX_SCOPE_CHARS: Final = 512  # the names of a task's templates, which an access token has as its scope
MAX_PARAMETER_CHARS: Final = 1024  # a value is in every token of the task, and a token must fit into one header


class TaskGrant(Struct, frozen=True, kw_only=True):
    """The rights and limits of one task, from which its tokens are made.

    Attributes:
        template: The template's name.
        ttl_ms: The task's lifetime, ms.
        depth: How many delegations may follow.
        audiences: The audiences for which the agent gets a token.
        rules: The rules of each audience's token; also of audiences that only services reach, by exchange.
        exchange: For each service, the audiences for which it may exchange a token.
        fewer_tools: By audience, the tools to which the agent attenuated the task: a second ``allow`` beside ``rules``.
        origins: By audience, its origins.
        delegate_to: Patterns of the agents to which the task may be delegated.
        limits: Further members of the mint's caveat in each token; see ``IN_TOKENS``.
        approvals: By audience, the calls that need an approval, and its terms.
        budgets: By template, what its calls may cost.
        is_bound: Whether the tokens are bound to their holders' keys.
        marks: Its rows about marks, by the member of the mint's caveat in each token.
        upstream: By template, ``Template.upstream``.
    """

    template: str
    ttl_ms: int
    depth: int
    audiences: tuple[str, ...]
    exchange: dict[str, tuple[str, ...]]
    rules: dict[str, tuple[Rule, ...]]
    fewer_tools: dict[str, tuple[Rule, ...]]
    origins: dict[str, tuple[str, ...]]
    delegate_to: tuple[str, ...]
    limits: dict[str, Any]
    approvals: dict[str, tuple[ApprovalTerms, ...]] = {}
    budgets: dict[str, Budget] = {}
    is_bound: bool = False
    marks: dict[str, Any] = {}
    upstream: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}


class Policy:
    """A checked policy.  It never changes; a reload makes another one.

    Attributes:
        document: All of its tables.
        digest: Its identifier: the first 16 bytes of the SHA-256 of its canonical JSON (RFC 8785), base64url.
        audiences: Origins by audience.
        issuers: The trusted issuers, by name.
        workloads: Which of their tokens identify which agent.
        operators: Which of their people are operators, and with which role.
        sessions: Terms of sessions, by name.
        templates: Templates of tasks, by name.
        subject_claims: The names of all claims of subjects that a rule uses.
        operator_claims: The names of all claims that make a person an operator.
        text: The policy as written.
    """

    def __init__(self, text: TomlText) -> None:
        """Check a policy; use ``parse`` or ``load`` instead.

        Raises:
            SettingsError: The first mistake, with file, line and key.
        """
        self.text = text
        self.document = read_document(TomlEntry(text), text.document)
        self.issuers, self.workloads = self.document.issuer, self.document.workload
        self.operators = self.document.operator
        self.audiences = {name: audience.origins for name, audience in self.document.audience.items()}
        self.resources = {name: audience.resources for name, audience in self.document.audience.items()}
        self.sessions: dict[str, SessionTerms] = self.document.session
        self.templates: dict[str, Template] = self.document.task
        self.digest = _digest(text)
        tables: list[SessionTerms | Template] = [*self.sessions.values(), *self.templates.values()]
        rules = [rule for table in tables for rule in table.subjects]
        self.subject_claims = frozenset(name for rule in rules for name in rule.claims)
        self.operator_claims = frozenset(name for rule in self.operators for name in rule.claims)

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Parse a policy.

        Args:
            text: TOML.
            name: The file's name in errors.

        Raises:
            SettingsError: The first mistake, with file, line and key.
        """
        return cls(TomlText(text, name, CODE))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Parse a policy file.

        Raises:
            SettingsError: It cannot be read, is not UTF-8, exceeds 1 MiB, or has a mistake.
        """
        return cls(read_toml(path, CODE))

    @classmethod
    def mistakes(cls, path: Path | str) -> list[SettingsError]:
        """Return the mistakes of a policy file: all in the form of its tables, and one in the meaning of each.

        Args:
            path: The file.

        Returns:
            At most ``MAX_MISTAKES``, in the order of the file; the one that ``load`` raises is among them.
        """
        try:
            text = read_toml(path, CODE)
        except SettingsError as error:
            return [error]
        found: list[SettingsError] = []
        while len(found) < MAX_MISTAKES:
            try:
                cls(text)
            except TomlError as error:
                mistakes = [error, *error.further]
                found += mistakes
                if not without_mistakes(text.document, mistakes):
                    break
            except SettingsError as error:  # about the whole policy: it hides nothing
                found.append(error)
                break
            else:
                break
        return sorted(found, key=lambda error: getattr(error, "line", 0))[:MAX_MISTAKES]

    def may_open(self, agent: str, subject: Subject | None = None) -> SessionTerms:
        """Return the terms on which an agent may open a session.

        Args:
            agent: The agent's path.
            subject: The authenticated subject, or None.

        Returns:
            The terms.  If several match, those with the shortest life, and of all the shortest ``idle`` and
            ``subject_outlives``.

        Raises:
            GrantError: ``session_not_allowed``: no terms match this agent; ``subject_not_allowed``: none match this
                subject; ``subject_required``: some require a subject and there is none.
        """
        fitting = [terms for terms in self.sessions.values() if names.matches_any_path(terms.agents, agent)]
        if not fitting:
            raise GrantError(
                f"session not allowed: the policy has no [session] for {agent}; add it to `agents` of one",
                code="session_not_allowed",
            )
        if subject is not None:
            fitting = [
                terms
                for terms in fitting
                if terms.subject != "none" and fits_subject(subject, terms.subjects, self.issuers)
            ]
            if not fitting:
                raise GrantError(
                    f"subject not allowed: no [session] of the policy lets {agent} act on behalf of this subject",
                    code="subject_not_allowed",
                )
        # Checked over all terms: an agent must not avoid the requirement by other terms that also match it.
        elif any(terms.subject == "required" for terms in fitting):
            raise GrantError(
                f"subject required: {agent} acts only on behalf of a subject; send its token as subject_token",
                code="subject_required",
            )
        # The strictest of all matching terms, so that terms without a limit do not lift a limit of others.
        return replace(
            min(fitting, key=lambda terms: (terms.ttl_ms, terms.name)),
            idle_ms=min((terms.idle_ms for terms in fitting if terms.idle_ms is not None), default=None),
            outlives_ms=min(terms.outlives_ms for terms in fitting),
        )

    def most_open(self, agent: str) -> int | None:
        """Return how many sessions an agent may have open at once; None for any number."""
        fitting = [terms for terms in self.sessions.values() if names.matches_any_path(terms.agents, agent)]
        # The smallest of all matching terms, so that terms without a limit do not lift a limit of others.
        return min((terms.max_open for terms in fitting if terms.max_open is not None), default=None)

    @property
    def carry_ms(self) -> int:
        """For how long after its end a session's warnings are those of the agent's next one, ms; 0 for not at all."""
        written = self.document.marks.carry_ms
        default = CARRY_MS if any(template.preset is not None for template in self.templates.values()) else 0
        return default if written is None else written

    def grant(
        self,
        template: str,
        agent: str,
        params: Mapping[str, Any],
        *,
        ttl: str | None = None,
        tools: Sequence[str] | None = None,
        depth: int | None = None,
        subject: Subject | None = None,
    ) -> TaskGrant:
        """Return what a task grants to an agent.

        Args:
            template: The template's name; or the names of several, with a space between, whose rules one task then has.
            agent: The agent's path.
            params: A value for each of the template's parameters, unchecked; of several templates, such an object each.
            ttl: A shorter lifetime, as a duration such as ``5m``.
            tools: Fewer tools: names or patterns.
            depth: Fewer delegations.
            subject: The subject on whose behalf the session runs, or None.

        Returns:
            Rules by audience, and the limits around them.

        Raises:
            GrantError: ``unknown_task``, with the tasks that this agent may start; ``bad_parameters``, with a failure
                for each mistake; ``subject_required`` and ``subject_not_allowed``.
        """
        if " " in template:
            if (ttl, tools) != (None, None):
                raise GrantError("ttl, tools: expected neither, with several templates", code="bad_parameters")
            return self._grant_several(template.split(" "), agent, params, subject)
        chosen = self.require_startable(template, agent, subject)
        request = _TaskRequest(chosen, params, subject)
        ttl_ms, fewer = request.ttl(ttl), request.depth(depth)
        fewer_tools = request.attenuate(tools)
        rules = request.rules()
        # An audience without a kept tool gets no token at all.
        if tools is not None:
            rules = {audience: rules[audience] for audience in fewer_tools}
        return TaskGrant(
            template=template,
            ttl_ms=ttl_ms,
            depth=fewer,
            audiences=tuple(audience for audience in chosen.audiences if audience in rules),
            exchange=chosen.exchange,
            rules=rules,
            fewer_tools=fewer_tools,
            origins={audience: self.audiences[audience] for audience in rules},
            delegate_to=chosen.receivers(agent),
            limits=in_tokens(chosen),
            approvals={at: terms for at in rules if (terms := chosen.approvals_at(at))},
            is_bound=chosen.binding == "bound",
            budgets={template: chosen.budget} if chosen.budget else {},
            marks=rows_of(chosen),
            upstream={template: chosen.upstream} if chosen.upstream else {},
        )

    def _grant_several(
        self, names: Sequence[str], agent: str, params: Mapping[str, Any], subject: Subject | None
    ) -> TaskGrant:
        """Return what one task with the rules of several templates grants; it cannot be delegated."""
        unknown = sorted(params.keys() - set(names))
        wrong = [name for name in names if not isinstance(params.get(name, {}), Mapping)]
        joined = " ".join(names)
        if unknown or wrong or len(set(names)) != len(names) or len(joined) > MAX_SCOPE_CHARS:
            raise GrantError(
                f"several tasks: expected distinct names of at most {MAX_SCOPE_CHARS} characters, and parameters by "
                f"task; wrong: {', '.join(unknown + wrong) or 'the names'}",
                code="bad_parameters",
            )
        grants = [self.grant(name, agent, params.get(name, {}), subject=subject) for name in names]
        first = grants[0]
        for each in grants:
            # The conditions of one would else hold for calls of another one, or be lost.
            if (
                each.approvals
                or each.exchange
                or each.is_bound
                or each.budgets
                or each.marks
                or each.limits != first.limits
            ):
                raise GrantError(
                    f"task {each.template} can be had alone only: it is bound, or has approvals, a budget, "
                    f"rules about marks, exchange or other conditions than {first.template}",
                    code="bad_parameters",
                )
        places = dict.fromkeys(at for each in grants for at in each.rules)
        return TaskGrant(
            template=joined,
            ttl_ms=min(each.ttl_ms for each in grants),
            depth=0,
            audiences=tuple(dict.fromkeys(at for each in grants for at in each.audiences)),
            exchange={},
            rules={at: tuple(rule for each in grants for rule in each.rules.get(at, ())) for at in places},
            fewer_tools={},
            origins={at: self.audiences[at] for at in places},
            delegate_to=first.delegate_to,
            limits=first.limits,
            upstream={name: table for each in grants for name, table in each.upstream.items()},
        )

    def require_startable(self, template: str, agent: str, subject: Subject | None) -> Template:
        """Return a template that an agent may start tasks of, on behalf of a subject.

        Args:
            template: The template's name.
            agent: The agent's path.
            subject: The subject on whose behalf the session runs, or None.

        Raises:
            GrantError: ``unknown_task``, ``subject_required`` or ``subject_not_allowed``.
        """
        chosen = self.templates.get(template)
        if chosen is None or not names.matches_any_path(chosen.agents, agent):
            startable = [name for name, other in self.templates.items() if names.matches_any_path(other.agents, agent)]
            raise GrantError(
                f"unknown task: expected one that {agent} may start ({', '.join(startable) or 'none'}), "
                f"got {shorten(template)}",
                code="unknown_task",
            )
        if chosen.subjects:
            self._require_subject(chosen, subject)
        return chosen

    def _require_subject(self, template: Template, subject: Subject | None) -> None:
        """Require a subject who may have this task."""
        # Both must have the right: the agent by ``agents``, its subject by ``subjects``.
        if subject is None:
            raise GrantError(
                f"subject required: task {template.name} needs a session with a subject; open one with subject_token",
                code="subject_required",
            )
        if not fits_subject(subject, template.subjects, self.issuers):
            raise GrantError(
                f"subject not allowed: task {template.name} is not for the subject of this session",
                code="subject_not_allowed",
            )


class _TaskRequest:
    """A request for a task, checked against its template."""

    # Failures are collected, so that the agent learns of all its mistakes at once.
    def __init__(self, template: Template, params: Mapping[str, Any], subject: Subject | None) -> None:
        self._template, self._subject = template, subject
        self._place = f"task {template.name}"
        # A constraint takes 5.0 for 5, and canonical JSON writes the integer alone.
        self._params = {name: int(value) if is_integer(value) else value for name, value in params.items()}
        self._failures = explain(Rule(tool="*", args=template.params), params, self._place)
        named = {failure.rule.partition(" ")[0] for failure in self._failures}
        for name in template.params:
            value = self._params.get(name)
            if name in params and name not in named and not _is_value(value):
                wanted = f"one text of at most {MAX_PARAMETER_CHARS} whole characters, integer, true or false"
                self._fail(name, wanted, shorten(value))

    def ttl(self, text: str | None) -> int:
        ttl_ms = duration_within(text, self._template.ttl_ms)
        if ttl_ms is None:
            self._fail("ttl", f"a duration of at most {format_duration(self._template.ttl_ms)}", shorten(text))
        return ttl_ms or 0

    def depth(self, fewer: int | None) -> int:
        most = self._template.depth
        if fewer is not None and (type(fewer) is not int or not 0 <= fewer <= most):
            self._fail("depth", f"an integer, 0 to {most}", shorten(fewer))
        return most if fewer is None else fewer

    def attenuate(self, tools: Sequence[str] | None) -> dict[str, tuple[Rule, ...]]:
        if tools is None:
            return {}
        kept: dict[str, tuple[Rule, ...]] = {}
        if not tools:
            self._fail("tools", "at least one tool", "none")
        for tool in dict.fromkeys(tools):
            at = (
                [rule.at for rule in self._template.rules if overlap(tool, rule.tool)]
                if names.is_tool_pattern(tool)
                else []
            )
            if not at:
                allowed = ", ".join(sorted({rule.tool for rule in self._template.rules}))
                self._fail("tools", f"within {allowed}", shorten(tool))
            # Beside the template's rules, not merged into them: a call must satisfy both, so no pattern widens a rule.
            for audience in dict.fromkeys(at):
                kept[audience] = (*kept.get(audience, ()), Rule(tool=tool))
        # Tools of services alone would leave the agent a task without any token.
        if not self._failures and not kept.keys() & set(self._template.audiences):
            self._fail(
                "tools", f"a tool of the agent's own, at {', '.join(self._template.audiences)}", ", ".join(tools)
            )
        return {audience: kept[audience] for audience in self._template.everywhere if audience in kept}

    def rules(self) -> dict[str, tuple[Rule, ...]]:
        """Fill in and return the rules by audience; called last.

        Raises:
            GrantError: With every failure so far.
        """
        filled: dict[str, tuple[Rule, ...]] = dict.fromkeys(self._template.everywhere, ())
        if not self._failures:
            values = dict(self._params)
            # Set last, and never taken from the request: ``read_params`` refuses a parameter of this name.
            if self._subject is not None:
                values[SUBJECT] = self._subject.name
            for rule in self._template.rules:
                try:
                    filled[rule.at] = (*filled[rule.at], rule.fill(values))
                except MalformedTokenError as error:
                    self._fail("params", f"values that fit the rule for {rule.tool}", str(error))
        if self._failures:
            detail = "; ".join(map(str, self._failures))
            raise GrantError(detail, code="bad_parameters", failures=self._failures)
        return filled

    def _fail(self, rule: str, expected: str, got: str) -> None:
        self._failures.append(Failure(self._place, rule, expected, got))


def _digest(text: TomlText) -> str:
    try:
        # Of the data and not of the text: comments and layout do not change a policy's identifier.
        raw = jcs.jcs(text.document)
    except RequestError as error:
        raise SettingsError(f"{text.name}: {error}", code=CODE) from error
    return wire.text_of(hashlib.sha256(raw).digest()[:16])


def _is_value(value: Any) -> bool:
    if not isinstance(value, str):
        # A list could pass a `length` constraint, but a parameter is a single value.
        return isinstance(value, bool) or is_integer(value)
    try:
        value.encode()  # JSON can carry half of a surrogate pair, which UTF-8 cannot encode
    except UnicodeEncodeError:
        return False
    return len(value) <= MAX_PARAMETER_CHARS
