# SPDX-License-Identifier: Apache-2.0
"""The policy: which agents may open sessions, and what each task grants.

A TOML file, checked whole when it is loaded and named by a digest that goes into tokens and decisions.  A ``Policy``
never changes; a reload makes another one.  It answers with rules and limits; tokens are made elsewhere.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct
from msgspec.structs import replace

from arx_caps.durations import duration_within, format_duration
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.issuers import Subject, fits_subject
from arx_caps.mint.policy.parse import PolicyEntry, PolicyText, in_tokens
from arx_caps.mint.policy.tables import SessionTerms, Template, read_document
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_verifier import jcs, names
from arx_verifier.constraints import Rule, explain
from arx_verifier.errors import Failure, GrantError, MalformedTokenError, RequestError, SettingsError, shorten

__all__ = ["Policy", "SessionTerms", "TaskGrant", "Template"]

MAX_BYTES: Final = 1 << 20  # far above any policy a person could review
MAX_PARAMETER_CHARS: Final = 1024  # a value goes into every token of the task, and these into one header


class TaskGrant(Struct, frozen=True, kw_only=True):
    """What one task may do, for the mint to put into tokens.

    Attributes:
        template: The template's name.
        ttl_ms: How long the task may live.
        depth: How many delegations may follow.
        audiences: Those that the agent gets a token for.
        rules: By audience, the rules of its token; also of audiences that services alone may exchange a token for.
        exchange: By service, the audiences that it may exchange a token for.
        fewer_tools: By audience, the tools that the agent asked to keep: one more ``allow`` beside ``rules``.
        origins: By audience, where it lives.
        delegate_to: Patterns of the agents that may be delegated to.
        limits: Members of the mint's caveat in each token, beside ``allow`` and ``delegate_to``; see ``IN_TOKENS``.
        approvals: By audience, which of its calls need an approval, and what that takes.
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


class Policy:
    """A policy, checked.

    Attributes:
        document: All of its tables, checked.
        digest: Its name: the first 16 bytes of the SHA-256 of what it says, base64url.  Comments do not count.
        audiences: Origins by audience.
        issuers: Whose tokens are trusted, by name.
        workloads: Which of them are which agent.
        sessions: Terms by name.
        templates: Templates by name.
        subject_claims: The claims about a subject that it asks for anywhere.
        text: As it was written.
    """

    def __init__(self, text: PolicyText) -> None:
        """Check a policy; ``parse`` and ``load`` are the ways to one.

        Raises:
            SettingsError: The first mistake, with file, line and key.
        """
        self.text = text
        self.document = read_document(PolicyEntry(text), text.document)
        self.issuers, self.workloads = self.document.issuer, self.document.workload
        self.audiences = {name: audience.origins for name, audience in self.document.audience.items()}
        self.sessions: dict[str, SessionTerms] = self.document.session
        self.templates: dict[str, Template] = self.document.task
        self.digest = _digest(text)
        rules = [rule for part in (self.sessions, self.templates) for each in part.values() for rule in each.subjects]
        self.subject_claims = frozenset(name for rule in rules for name in rule.claims)

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Read a policy.

        Args:
            text: TOML.
            name: What errors call it.

        Raises:
            SettingsError: As the constructor.
        """
        return cls(PolicyText(text, name))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a policy from a file.

        Raises:
            SettingsError: It cannot be read, is no UTF-8 or larger than 1 MiB; or as the constructor.
        """
        try:
            raw = Path(path).read_bytes()
            text = raw.decode()
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}", code="policy") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: is not UTF-8 (byte {error.start})", code="policy") from error
        if len(raw) > MAX_BYTES:
            raise SettingsError(f"{path}: is larger than {MAX_BYTES} bytes", code="policy")
        return cls.parse(text, str(path))

    def may_open(self, agent: str, subject: Subject | None = None) -> SessionTerms:
        """Tell on what terms an agent may open a session.

        Args:
            agent: The agent's path.
            subject: On whose behalf, proven; None for nobody's.

        Returns:
            The terms; where several fit, those that end first, with the shortest ``idle`` and ``subject_outlives`` of
            them all: a limit is not escaped by other terms that set none.

        Raises:
            GrantError: No terms are for this agent (``session_not_allowed``), or none on this subject's behalf
                (``subject_not_allowed``), or some require a subject and there is none
                (``subject_required``).
        """
        fitting = [terms for terms in self.sessions.values() if names.matches_any_path(terms.agents, agent)]
        if not fitting:
            raise GrantError(
                f"the policy lets no session be opened by {agent}: add it to `agents` of a [session]",
                code="session_not_allowed",
            )
        if subject is not None:
            fitting = [
                terms
                for terms in fitting
                if terms.subject != "none" and fits_subject(subject, terms.subjects, self.issuers)
            ]
            if not fitting:
                raise GrantError(f"the policy lets {agent} act on no such subject's behalf", code="subject_not_allowed")
        # Terms that require a subject are not escaped by other terms that require none.
        elif any(terms.subject == "required" for terms in fitting):
            raise GrantError(
                f"{agent} acts on somebody's behalf alone: say whose, with subject_token", code="subject_required"
            )
        return replace(
            min(fitting, key=lambda terms: (terms.ttl_ms, terms.name)),
            idle_ms=min((terms.idle_ms for terms in fitting if terms.idle_ms is not None), default=None),
            outlives_ms=min(terms.outlives_ms for terms in fitting),
        )

    def most_open(self, agent: str) -> int | None:
        """Tell how many sessions an agent may have open at once; None for any number.

        A limit is not escaped by other terms that set none.
        """
        fitting = [terms for terms in self.sessions.values() if names.matches_any_path(terms.agents, agent)]
        return min((terms.max_open for terms in fitting if terms.max_open is not None), default=None)

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
        """Work out what a task grants to an agent.

        Args:
            template: The template's name.
            agent: The agent's path.
            params: A value for each of the template's parameters, as it came from the agent.
            ttl: A shorter life, as a duration.
            tools: Fewer tools: names or patterns.
            depth: Fewer delegations.
            subject: On whose behalf the session runs; None for nobody's.

        Returns:
            Rules by audience, and the limits around them.

        Raises:
            GrantError: ``unknown_task``, with those that this agent may start; ``bad_parameters``, with a failure for
                each thing that does not fit; ``subject_required`` and ``subject_not_allowed``.
        """
        found = self.templates.get(template)
        if found is None or not names.matches_any_path(found.agents, agent):
            may = [name for name, other in self.templates.items() if names.matches_any_path(other.agents, agent)]
            raise GrantError(
                f"{agent} may start no task {shorten(template)}; it may start: {', '.join(may) or 'none'}",
                code="unknown_task",
            )
        if found.subjects:
            self._require_subject(found, subject)
        asked = _Asked(found, params, subject)
        ttl_ms, fewer = asked.ttl(ttl), asked.depth(depth)
        fewer_tools = asked.attenuate(tools)
        rules = asked.rules()
        if tools is not None:
            rules = {audience: rules[audience] for audience in fewer_tools}
        return TaskGrant(
            template=template,
            ttl_ms=ttl_ms,
            depth=fewer,
            audiences=tuple(audience for audience in found.audiences if audience in rules),
            exchange=found.exchange,
            rules=rules,
            fewer_tools=fewer_tools,
            origins={audience: self.audiences[audience] for audience in rules},
            delegate_to=found.delegate_to if found.delegate_to is not None else (f"{agent.partition('/')[0]}/**",),
            limits=in_tokens(found),
            approvals={at: terms for at in found.audiences if at in rules and (terms := found.approvals_at(at))},
        )

    def _require_subject(self, template: Template, subject: Subject | None) -> None:
        """Require a subject who may have this task: the right that counts is the agent's and the subject's."""
        if subject is None:
            raise GrantError(
                f"task {template.name} is for sessions on somebody's behalf; open one with subject_token",
                code="subject_required",
            )
        if not fits_subject(subject, template.subjects, self.issuers):
            raise GrantError(f"task {template.name} is not for the subject of this session", code="subject_not_allowed")


class _Asked:
    """One request for a task, checked against its template; failures are collected and raised together."""

    def __init__(self, template: Template, params: Mapping[str, Any], subject: Subject | None) -> None:
        self._template, self._subject = template, subject
        self._place = f"task {template.name}"
        self._params = params
        self._failures = explain(Rule(tool="*", args=template.params), params, self._place)
        named = {failure.rule.partition(" ")[0] for failure in self._failures}
        for name in template.params:
            value = params.get(name)
            if name in params and name not in named and not _is_value(value):
                wanted = f"one value of at most {MAX_PARAMETER_CHARS} whole characters"
                self._fail(name, wanted, shorten(value))

    def ttl(self, text: str | None) -> int:
        asked = duration_within(text, self._template.ttl_ms)
        if asked is None:
            self._fail("ttl", f"a duration of at most {format_duration(self._template.ttl_ms)}", shorten(text))
        return asked or 0

    def depth(self, asked: int | None) -> int:
        most = self._template.depth
        if asked is not None and (type(asked) is not int or not 0 <= asked <= most):
            self._fail("depth", f"an integer, 0 to {most}", shorten(asked))
        return most if asked is None else asked

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
            for audience in dict.fromkeys(at):
                kept[audience] = (*kept.get(audience, ()), Rule(tool=tool))
        if not self._failures and not kept.keys() & set(self._template.audiences):
            self._fail(
                "tools", f"a tool of the agent's own, at {', '.join(self._template.audiences)}", ", ".join(tools)
            )
        return {audience: kept[audience] for audience in self._template.everywhere if audience in kept}

    def rules(self) -> dict[str, tuple[Rule, ...]]:
        """Fill the rules in, last, when all else is known to fit.

        Raises:
            GrantError: With every failure so far.
        """
        made: dict[str, tuple[Rule, ...]] = dict.fromkeys(self._template.everywhere, ())
        if not self._failures:
            values = dict(self._params)
            if self._subject is not None:
                values[SUBJECT] = self._subject.name
            for rule in self._template.rules:
                try:
                    made[rule.at] = (*made[rule.at], rule.fill(values))
                except MalformedTokenError as error:
                    self._fail("params", f"values that fit the rule for {rule.tool}", str(error))
        if self._failures:
            told = "; ".join(map(str, self._failures))
            raise GrantError(told, code="bad_parameters", failures=self._failures)
        return made

    def _fail(self, rule: str, expected: str, came: str) -> None:
        self._failures.append(Failure(self._place, rule, expected, came))


def _digest(text: PolicyText) -> str:
    try:
        raw = jcs.jcs(text.document)
    except RequestError as error:
        raise SettingsError(f"{text.name}: {error}", code="policy") from error
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()[:16]).rstrip(b"=").decode()


def _is_value(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, int)  # a length is also one of lists; a parameter is a single value
    try:
        value.encode()  # half of a surrogate pair could stand in no token
    except UnicodeEncodeError:
        return False
    return len(value) <= MAX_PARAMETER_CHARS
