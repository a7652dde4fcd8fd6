# SPDX-License-Identifier: Apache-2.0
"""The tables of a policy file: audiences, sessions and templates of tasks.

A struct's annotations are the grammar of its table, and each ``read_…`` checks what needs more than one member.  Rules
with parameters are in ``templates``, and grants in ``model``.
"""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, field
from msgspec.structs import replace

from arx_caps.mint.policy.approvals import MAX_ENTRIES, ApprovalEntry, ApprovalTerms, check_approvals
from arx_caps.mint.policy.budgets import read_budget
from arx_caps.mint.policy.issuers import (
    Issuer,
    Name,
    OperatorRule,
    SubjectMode,
    SubjectRule,
    WorkloadRule,
    check_issuers,
    check_subjects,
    check_workloads,
)
from arx_caps.mint.policy.marks import (
    After,
    Descriptions,
    Distinct,
    Marks,
    MarksTerms,
    OnlyAfter,
    ToolDescription,
    approvals_after,
    check_descriptions,
    check_marks,
    with_preset,
)
from arx_caps.mint.policy.members import ANY_IF_EMPTY, GRANTS, IN_TOKENS, RESTRICTS
from arx_caps.mint.policy.templates import TemplateRule, ToolPattern, check_rule, read_params
from arx_caps.settings.connections import ConnectionName, ConnectionScope
from arx_caps.settings.durations import format_duration
from arx_caps.settings.toml_file import (
    UNWRITTEN,
    TomlEntry,
    TomlError,
    TomlTable,
    checked_text,
    duration,
    several,
    text_that,
)
from arx_verifier import addresses, names
from arx_verifier.token.caveats import MAX_FRESH_MS, MAX_HOPS

DEFAULT_DEPTH: Final = 4  # enough for usual delegations; the author of a policy decides on longer chains
MAX_RESOURCE_CHARS: Final = 512
MAX_OPEN: Final = 10_000  # the database counts an agent's sessions row by row

_ORIGIN: Final = re.compile(r"(https?)://(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([1-9][0-9]{0,4}))?")
_PORTS: Final = {"http": 80, "https": 443}


def _wrong_network(network: str) -> str | None:
    try:
        addresses.read_network(network)
    except ValueError as error:
        return str(error)
    return None


def _place(origin: str) -> tuple[str, str, int] | None:
    """Return an origin's scheme, host and port, or None if it is not one."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, address, name, digits = match.groups()
    port = int(digits) if digits else _PORTS[scheme]
    # One spelling for each address: otherwise one origin could belong to two audiences.
    found = addresses.read_address(address) if address is not None else None
    if address is not None and (not isinstance(found, IPv6Address) or addresses.write_address(found) != address):
        return None
    return (scheme, address or name, port) if port <= 65535 else None


Pattern: TypeAlias = Annotated[
    str, text_that(names.is_path_pattern, "a pattern: segments, `*` for one, `**` only as the last")
]
Patterns: TypeAlias = Annotated[tuple[Pattern, ...], several("pattern", 'for all agents, write ["**"]'), GRANTS]
Receivers: TypeAlias = Annotated[
    tuple[Pattern, ...], several("pattern", "to let no agent be delegated to, write depth = 0"), GRANTS
]
Origin: TypeAlias = Annotated[str, text_that(_place, "an origin: scheme, host in lower case, and port")]
Resources: TypeAlias = Annotated[
    tuple[str, ...], several("resource", "leave it out to allow each URL at the origins"), ANY_IF_EMPTY
]
Network: TypeAlias = Annotated[str, checked_text(_wrong_network)]
Networks: TypeAlias = Annotated[
    tuple[Network, ...], several("network", "leave it out to let calls come from anywhere"), ANY_IF_EMPTY
]
Audiences: TypeAlias = Annotated[tuple[str, ...], several("audience", 'for example ["orders"]'), GRANTS]
Subjects: TypeAlias = Annotated[
    tuple[SubjectRule, ...], several("subject", 'for example [ { issuer = "corp" } ]'), ANY_IF_EMPTY
]
Rules: TypeAlias = Annotated[
    tuple[TemplateRule, ...], several("rule", 'for example [ { tool = "orders.get", args = { … } } ]'), GRANTS
]
Approvals: TypeAlias = Annotated[
    tuple[ApprovalEntry, ...],
    several("approval", 'for example [ { tools = ["payments.refund"] } ]', MAX_ENTRIES),
    RESTRICTS,
]
BudgetTable: TypeAlias = Annotated[dict[str, str], Meta(extra={"parse": read_budget}), RESTRICTS]
ConnectionScopes: TypeAlias = Annotated[tuple[ConnectionScope, ...], several("scope", 'for example ["repo.read"]')]
AudienceName: TypeAlias = Annotated[
    str, text_that(names.is_audience, "an audience's name: [a-z0-9][a-z0-9._-]*, at most 64, not beginning with arx")
]


class AudienceTerms(TomlTable, frozen=True, kw_only=True):
    """A tool service and its origins.

    Attributes:
        name: The table's name.
        origins: The origins at which clients reach it.
        resources: The URLs that access tokens of OAuth clients may be for (RFC 8707); empty for all at the origins.
    """

    name: Annotated[AudienceName, UNWRITTEN]
    origins: Annotated[tuple[Origin, ...], several("origin", 'for example ["http://127.0.0.1:9001"]'), GRANTS]
    resources: Resources = ()


class SessionTerms(TomlTable, frozen=True, kw_only=True):
    """Terms on which agents may open sessions.

    Attributes:
        name: The table's name.
        agents: Patterns of agent paths.
        ttl_ms: The longest life of a session, ms; no renewal extends it.
        idle_ms: How long a session lives without a renewal, ms; None for no limit but ``ttl_ms``.
        max_open: How many sessions each agent may have open at once; None for any number.
        subject: Whether a session runs on behalf of a subject: ``none``, ``allowed`` or ``required``.
        subjects: The subjects on whose behalf it may run.
        outlives_ms: How much longer than its subject's token it may live, ms.
    """

    name: Annotated[Name, UNWRITTEN]
    agents: Patterns
    ttl_ms: Annotated[int, duration()] = field(name="ttl")
    idle_ms: Annotated[int, duration()] | None = field(name="idle", default=None)
    max_open: Annotated[int, Meta(ge=1, le=MAX_OPEN)] | None = None
    subject: SubjectMode = "none"
    subjects: Subjects = ()
    outlives_ms: Annotated[int, duration(least=0)] = field(name="subject_outlives", default=0)


class Template(TomlTable, frozen=True, kw_only=True):
    """One kind of task.

    Attributes:
        name: The table's name.
        agents: Patterns of the agents that may start it.
        params: Its parameters, a constraint for each; a value is one text, integer or flag.
        ttl_ms: The longest life of a task.
        depth: How many delegations may follow; 0 for none.
        audiences: The services for which the agent gets a token; each has at least one rule.
        rules: The rules.
        delegate_to: Patterns of the agents to which it may be delegated; default: all with the same first segment.
        binding: ``bound``: the task's tokens are bound to a key of each holder, so that a stolen one is of no use;
            ``bearer``: they are not, and the default.
        require: The proofs that each call needs; default ``["call"]``.  ``["signature"]``, of a bound task: the holder
            signs each call, as evidence for others than the service.
        fresh: How old a service's view of kills may be; ``"0ms"`` probes before each call; default: the lease.
        net: Networks from which calls may come; default: any.
        subjects: The subjects on whose behalf alone it may be started; default: any, or none.
        exchange: For each service, the audiences for which it may exchange a token: ``{ orders = ["payments"] }``.
            Only services reach an audience that is not in ``audience``; it needs rules as well.
        approvals: The calls that an operator must approve first; default: none.
        budget: What the calls of one task may cost together: ``{ usd = "5.00", calls = 200 }``, for the whole task, or
            with ``per = "hour"`` or ``"day"`` in each hour or day; default: any cost.
        upstream: By connection, the scopes of each tool's calls at the person's account there:
            ``{ tracker = { "tracker.get" = ["repo.read"] } }``; the first pattern that matches counts.
        marks: What sets a mark on the session: ``{ tools = ["web.*"], set = "untrusted" }``, a warning; or a proof, by
            services (``{ proof = "tested", from = ["ci"] }``), or when the effect of a call is done
            (``{ proof = "saved", tools = ["db.save"], on = "success" }``); with ``per = "task"`` on the task.
        after: Calls that are refused while all these warnings are set:
            ``{ mark = "untrusted", tools = ["mail.send"] }``; or that then need an approval: ``do = "approve"``.
        only_after: Calls that need a proof: ``{ mark = "tested", tools = ["deploy.run"], within = "1h" }``.
        distinct: How many different values these arguments have in one task, or with ``per = "session"`` in one
            session: ``{ tools = ["mail.send"], arg = ["to", "cc"], max = 5 }``.
        preset: ``no-exfiltration``: writes the entries of ``marks`` and ``after`` by which what a ``[tool]`` returns as
            untrusted and as private is not sent; each tool of the task needs such a description.
        bearer: Whether an OAuth client may hold the task by an access token, which a thief can replay until it expires:
            ``allow``, ``refuse``, or ``dpop``: only by one that is bound to a key of the client (RFC 9449), which a
            thief cannot use; default: dpop with approvals or ``fresh = "0ms"``, else allow.
    """

    name: Annotated[Name, UNWRITTEN]
    agents: Patterns
    params: dict[str, Any] = field(default_factory=dict)  # as written; ``read_template`` parses a constraint for each
    ttl_ms: Annotated[int, duration()] = field(name="ttl")
    depth: Annotated[int, Meta(ge=0, le=MAX_HOPS)] = DEFAULT_DEPTH
    audiences: Audiences = field(name="audience")
    rules: Rules = field(name="allow")
    delegate_to: Receivers | None = None
    binding: Literal["bearer", "bound"] = "bearer"
    # Without a proof of each call the tokens are bearer tokens: a policy must write that down.
    require: Annotated[tuple[Literal["call", "signature"], ...], RESTRICTS, IN_TOKENS] = ("call",)
    fresh: Annotated[int, duration(least=0, most=MAX_FRESH_MS), IN_TOKENS] | None = None
    net: Annotated[Networks, IN_TOKENS] = ()
    subjects: Subjects = ()
    exchange: Annotated[dict[str, Any], GRANTS] = field(default_factory=dict)  # then ``Audiences`` each
    approvals: Approvals = ()
    budget: BudgetTable = field(default_factory=dict)
    upstream: Annotated[dict[ConnectionName, dict[ToolPattern, ConnectionScopes]], GRANTS] = field(default_factory=dict)
    marks: Marks = ()
    after: After = ()
    only_after: OnlyAfter = ()
    distinct: Distinct = ()
    preset: Literal["no-exfiltration"] | None = None
    bearer: Literal["allow", "dpop", "refuse"] | None = None

    @property
    def bearer_terms(self) -> Literal["allow", "dpop", "refuse"]:
        """Whether an access token may stand for a task of this template, or one that is bound to a key."""
        if self.binding == "bound":
            return "refuse"  # its tokens need their holder's key, which no access token has
        return self.bearer or ("dpop" if self.approvals or approvals_after(self.after) or self.fresh == 0 else "allow")

    def receivers(self, agent: str) -> tuple[str, ...]:
        """Return patterns of the agents to which an agent's task may be delegated."""
        return self.delegate_to if self.delegate_to is not None else (f"{agent.partition('/')[0]}/**",)

    @property
    def everywhere(self) -> tuple[str, ...]:
        """Every audience of the task: the agent's own, then those that only services reach."""
        more = [target for targets in self.exchange.values() for target in targets]
        return tuple(dict.fromkeys([*self.audiences, *more]))

    def scopes_at(self, connection: str, tool: str) -> tuple[str, ...]:
        """Return the scopes of a call at a person's account; empty for none.

        Args:
            connection: The connection.
            tool: The tool; empty for a message that calls none, which has the scopes of all tools.
        """
        listed = self.upstream.get(connection, {})
        if not tool:
            return tuple(dict.fromkeys(scope for scopes in listed.values() for scope in scopes))
        if not any(names.matches_tool(rule.tool, tool) for rule in self.rules):
            return ()
        return next((scopes for pattern, scopes in listed.items() if names.matches_tool(pattern, tool)), ())

    def approvals_at(self, audience: str) -> tuple[ApprovalTerms, ...]:
        """Return the terms of the approvals in a token for an audience: those after marks are alike in each."""
        own = tuple(entry.terms for entry in self.approvals if entry.meets(self.rules, audience))
        return (*own, *approvals_after(self.after))


class PolicyDocument(TomlTable, frozen=True, kw_only=True):
    """A whole policy: its tables by kind and name."""

    audience: dict[str, AudienceTerms] = field(default_factory=dict)
    issuer: dict[str, Issuer] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)  # as written; ``read_sessions`` parses one table or several
    task: dict[str, Template] = field(default_factory=dict)
    tool: dict[str, ToolDescription] = field(default_factory=dict)
    marks: MarksTerms = field(default_factory=MarksTerms)
    workload: Annotated[tuple[WorkloadRule, ...], several("workload", "for example [[workload]]"), GRANTS] = ()
    operator: Annotated[tuple[OperatorRule, ...], several("operator", "for example [[operator]]"), GRANTS] = ()


def read_document(entry: TomlEntry, data: Any) -> PolicyDocument:
    """Parse a whole policy, each table by itself.

    Args:
        entry: The whole policy, for errors.
        data: The policy as plain data.

    Raises:
        SettingsError: The first mistake.
    """
    document: PolicyDocument = entry.read(PolicyDocument, data)
    # Issuers and audiences first: sessions and tasks refer to them.
    issuers, audiences = document.issuer, document.audience
    check_issuers(entry.at("issuer"), issuers)
    check_workloads(entry.at("workload"), document.workload, issuers)
    check_subjects(entry.at("operator"), document.operator, issuers)
    check_audiences(entry.at("audience"), audiences)
    check_descriptions(entry.at("tool"), document.tool)
    sessions = read_sessions(entry.at("session"), document.session, issuers)
    tasks = {
        name: read_template(entry.at("task", name), template, audiences, issuers, document.tool)
        for name, template in document.task.items()
    }
    return replace(document, session=sessions, task=tasks)


def without_mistakes(document: dict[str, Any], mistakes: Sequence[TomlError]) -> bool:
    """Remove from a policy's data the unknown keys, and the tables with other mistakes.

    Args:
        document: The policy as plain data, changed in place.
        mistakes: Its mistakes so far.

    Returns:
        Whether that is possible, so that more can be found.
    """
    for path in [mistake.path for mistake in mistakes if mistake.unknown]:
        table: Any = document
        for step in path[:-1]:
            table = table[step]
        del table[path[-1]]
    wrong: dict[tuple[str | int, ...], None] = dict.fromkeys(
        mistake.path[:2] or ("",) for mistake in mistakes if not mistake.unknown
    )
    return all(_set_aside(document, *path) for path in wrong)


def _set_aside(document: dict[str, Any], kind: Any, *inner: Any) -> bool:
    tables: Any = document.get(kind)
    named = bool(inner) and isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
    if kind == "audience" and named and names.is_audience(inner[0]):
        # Tasks refer to it, and would have mistakes only because it is missing.
        instead = {"origins": [f"https://a{[*tables].index(inner[0])}.invalid"]}
        replaced: bool = tables[inner[0]] != instead
        tables[inner[0]] = instead
        return replaced
    # An audience whose own name is the mistake is removed: tasks that refer to it need the other name as well.
    if kind not in ("session", "task", "workload", "operator") and not (kind == "audience" and named):
        return False
    if named:
        del tables[inner[0]]
    else:
        document.pop(kind, None)
    return True


def check_audiences(entry: TomlEntry, audiences: Mapping[str, AudienceTerms]) -> None:
    """Check every ``[audience.NAME]``.

    Args:
        entry: The tables, for errors.
        audiences: The audiences, by name.

    Raises:
        SettingsError: A resource is not at an origin, or two audiences have the same origin.
    """
    owners: dict[Any, str] = {}
    for name, audience in audiences.items():
        for index, origin in enumerate(audience.origins):
            place = _place(origin)
            if place in owners:
                # A client chooses the token by the origin: with two audiences it could send the wrong one.
                raise entry.at(name, "origins", index).error(
                    f"expected an origin of its own, got that of {owners[place]}"
                )
            owners[place] = name
        for index, resource in enumerate(audience.resources):
            if origin_of(resource) not in audience.origins:
                places = " or ".join(audience.origins)
                raise entry.at(name, "resources", index).error(
                    f"expected a URL at {places}, without a fragment, of at most {MAX_RESOURCE_CHARS} characters"
                )


def origin_of(resource: str) -> str | None:
    """Return the origin of a resource (RFC 8707), as it is written there; None if it is no URL of one."""
    parts = addresses.split_url(resource) if len(resource) <= MAX_RESOURCE_CHARS and resource.isascii() else None
    return None if parts is None or parts.fragment else f"{parts.scheme}://{parts.netloc}"


def read_sessions(
    entry: TomlEntry, written: Mapping[str, Any], issuers: Mapping[str, Issuer]
) -> dict[str, SessionTerms]:
    """Parse one ``[session]``, or several ``[session.NAME]``.

    Raises:
        SettingsError: A table has a mistake.
    """
    # A member that is no table makes it the single [session]; the name is for errors and records.
    if not all(isinstance(table, dict) for table in written.values()):
        if named := [name for name, table in written.items() if isinstance(table, dict)]:
            raise entry.at(named[0]).error("expected no [session] beside it: give that table a name as well")
        return {"default": _read_session(entry, "default", written, issuers)}
    return {name: _read_session(entry.at(name), name, table, issuers) for name, table in written.items()}


def _read_session(entry: TomlEntry, name: str, table: Mapping[str, Any], issuers: Mapping[str, Issuer]) -> SessionTerms:
    terms: SessionTerms = entry.read(SessionTerms, table, name=name)
    # A longer idle time would never end a session.
    if terms.idle_ms is not None and terms.idle_ms > terms.ttl_ms:
        raise entry.at("idle").error(f"expected at most `ttl`, got {format_duration(terms.idle_ms)}")
    check_subjects(entry.at("subjects"), terms.subjects, issuers)
    # A restriction without effect is a mistake of the author, who relies on it.
    if terms.subject == "none" and table.keys() & {"subjects", "subject_outlives"}:
        raise entry.error('subjects are for sessions with subject = "allowed" or "required"')
    # An empty list would mean every subject of every issuer.
    if terms.subject != "none" and not terms.subjects:
        raise entry.at("subject").error('needs `subjects`, such as [ { issuer = "corp" } ]')
    return terms


def read_template(
    entry: TomlEntry,
    template: Template,
    audiences: Mapping[str, Any],
    issuers: Mapping[str, Issuer],
    tools: Descriptions,
) -> Template:
    """Check one ``[task.NAME]``, and parse its parameters and its exchanges.

    Args:
        entry: The table's entry, for errors.
        template: The table, converted.
        audiences: All audiences of the policy, by name.
        issuers: The trusted issuers, by name.
        tools: The descriptions of tools, by name or pattern.

    Raises:
        SettingsError: The table has a mistake.
    """
    unknown = [audience for audience in template.audiences if audience not in audiences]
    if unknown:
        known = ", ".join(audiences) or "none: add [audience.NAME]"
        raise entry.at("audience").error(f"expected audiences of the policy ({known}), got {', '.join(unknown)}")
    _check_binding(entry, template)
    params = read_params(entry.at("params"), template.params)
    exchange = _read_exchange(entry.at("exchange"), template, audiences)
    template = replace(template, params=params, exchange=exchange)
    rules = tuple(
        check_rule(entry.at("allow", index), rule, params, template.everywhere)
        for index, rule in enumerate(template.rules)
    )
    for audience in template.everywhere:
        if all(rule.at != audience for rule in rules):
            # A token without a rule allows no call, so a rule was forgotten.
            raise entry.at("allow").error(f"no rule is for {audience}; add one, or remove it from `audience`")
    check_subjects(entry.at("subjects"), template.subjects, issuers)
    if template.upstream and not template.subjects:
        raise entry.at("upstream").error("accounts are those of people: needs `subjects`")
    template = with_preset(entry, template, rules, tools)
    check_marks(entry, template, rules, audiences)
    check_approvals(entry, template, rules)
    if any(rule.names_subject for rule in rules) and len({rule.issuer for rule in template.subjects}) != 1:
        # Two issuers may use one name for two subjects, whom a service could not distinguish.
        raise entry.at("allow").error('"$subject" needs `subjects` of one issuer, such as [ { issuer = "corp" } ]')
    return replace(template, rules=rules)


def _check_binding(entry: TomlEntry, template: Template) -> None:
    """Refuse what does not go with how a task's tokens are bound."""
    if template.binding == "bearer" and "signature" in template.require:
        raise entry.at("require").error('"signature" needs binding = "bound": a bearer token has no key to sign with')
    if template.binding == "bound" and template.bearer in ("allow", "dpop"):
        raise entry.at("bearer").error('no access token holds a task with binding = "bound": leave it out')


def _read_exchange(entry: TomlEntry, template: Template, audiences: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Parse which service may exchange a token, and for which audiences."""
    exchange: dict[str, tuple[str, ...]] = {}
    for service, written in template.exchange.items():
        exchange[service] = entry.at(service).read(Audiences, written)
        unknown = [target for target in exchange[service] if target not in audiences or target == service]
        if unknown:
            known = ", ".join(name for name in audiences if name != service) or "none: add [audience.NAME]"
            raise entry.at(service).error(f"expected other audiences of the policy ({known}), got {', '.join(unknown)}")
    # A service that only exchanges reach may exchange further.
    reached = replace(template, exchange=exchange).everywhere
    for service in exchange:
        if service not in reached:
            raise entry.at(service).error(f"{service} gets no token of this task; add it to `audience`")
    return exchange
