# SPDX-License-Identifier: Apache-2.0
"""The sections of a policy file: audiences, sessions, task templates.

Each ``read_…`` turns one section into a frozen struct or refuses it with file, line and key.  What is granted is
``policy``'s answer; rules with parameters are in ``templates``.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from arx_caps.mint.approval_terms import ApprovalTerms, read_approvals
from arx_caps.mint.issuers import Issuer, SubjectMode, SubjectRule, read_subject_rules
from arx_caps.mint.policy_text import Section
from arx_caps.mint.templates import TemplateRule, read_params, read_template_rule
from arx_verifier import matching, names
from arx_verifier.caveats import MAX_FRESH_MS, MAX_HOPS
from arx_verifier.constraints import ConstraintLike
from arx_verifier.errors import MalformedTokenError, shorten

DEFAULT_DEPTH: Final = 4  # hand-overs that need no thought; a longer chain is a decision
MAX_OPEN: Final = 10_000  # sessions of one agent are counted one by one
PROOFS: Final = ("call",)
SUBJECT_MODES: Final = ("none", "allowed", "required")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ORIGIN: Final = re.compile(r"(https?)://(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([1-9][0-9]{0,4}))?")
_PORTS: Final = {"http": 80, "https": 443}


class SessionTerms(Struct, frozen=True, kw_only=True):
    """On what terms agents may open a session.

    Attributes:
        name: The section's name.
        agents: Patterns of agent paths.
        ttl_ms: How long a session may live, absolutely.
        idle_ms: How long it lives without a renewal; None for as long as it may at all.
        max_open: How many each of these agents may have open at once; None for any number.
        subject: Whether a session runs on somebody's behalf.
        subjects: On whose behalf it may.
        outlives_ms: How much longer than the token that proved its subject it may live.
    """

    name: str
    agents: tuple[str, ...]
    ttl_ms: int
    idle_ms: int | None = None
    max_open: int | None = None
    subject: SubjectMode = "none"
    subjects: tuple[SubjectRule, ...] = ()
    outlives_ms: int = 0


class Template(Struct, frozen=True, kw_only=True):
    """One kind of task, as the policy writes it.  Attributes as in ``TaskGrant``, before anything is filled in."""

    name: str
    agents: tuple[str, ...]
    params: dict[str, ConstraintLike]
    ttl_ms: int
    depth: int
    audiences: tuple[str, ...]
    rules: tuple[TemplateRule, ...]
    hand_to: tuple[str, ...] | None
    require: tuple[str, ...]
    fresh: int | None
    net: tuple[str, ...]
    subjects: tuple[SubjectRule, ...] = ()
    exchange: dict[str, tuple[str, ...]] = {}
    approvals: tuple[ApprovalTerms, ...] = ()

    @property
    def everywhere(self) -> tuple[str, ...]:
        """Every audience that a token of it may be for: the agent's own, then those of services alone."""
        more = [target for targets in self.exchange.values() for target in targets]
        return tuple(dict.fromkeys([*self.audiences, *more]))

    def approvals_at(self, audience: str) -> tuple[ApprovalTerms, ...]:
        """Return the terms of those approvals that calls at an audience may need."""
        return tuple(terms for terms in self.approvals if terms.meets(self.rules, audience))


def read_audiences(root: Section) -> dict[str, tuple[str, ...]]:
    """Read where each audience lives.

    Raises:
        SettingsError: A name or an origin that is not allowed, or one origin for two audiences.
    """
    audiences: dict[str, tuple[str, ...]] = {}
    owners: dict[tuple[str, str, int], str] = {}
    for name, section in root.take_sections("audience"):
        if not names.is_audience(name):
            raise section.error(None, "an audience's name is [a-z0-9][a-z0-9._-]*, at most 64, not beginning with arx")
        audiences[name] = section.take_texts("origins")
        if not audiences[name]:
            raise section.error("origins", 'needs at least one, such as "http://127.0.0.1:9001"')
        for index, origin in enumerate(audiences[name]):
            place = _place(origin)
            if place is None:
                raise section.error("origins", f"{shorten(origin)} is no origin: scheme, host in lower case, and port")
            if place in owners:
                # A client chooses the token by the origin: two audiences would leave it a choice.
                raise section.error("origins", f"number {index + 1} is already an origin of {owners[place]}")
            owners[place] = name
        section.finish()
    return audiences


def _place(origin: str) -> tuple[str, str, int] | None:
    """Read scheme, host and port of an origin, a port that is left out written in; None when it is no origin."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None
    scheme, address, name, digits = found.groups()
    port = int(digits) if digits else _PORTS[scheme]
    try:
        one_spelling = address is None or str(ipaddress.IPv6Address(address)) == address
    except ValueError:
        return None
    return (scheme, address or name, port) if one_spelling and port <= 65535 else None


def read_sessions(root: Section, issuers: Mapping[str, Issuer]) -> dict[str, SessionTerms]:
    """Read one ``[session]``, or several ``[session.NAME]``.

    Raises:
        SettingsError: A mistake in one of them.
    """
    written = root.take("session", {})
    if isinstance(written, dict) and not all(isinstance(value, dict) for value in written.values()):
        sections = [("default", root.inner(("session",), written))]
    else:
        sections = root.sections("session", written)
    sessions = {}
    for name, section in sections:
        _check_name(name, section)
        agents = _read_agents(section)
        ttl_ms, idle_ms, max_open = _read_limits(section)
        subject, subjects, outlives_ms = _read_subject(section, issuers)
        section.finish()
        sessions[name] = SessionTerms(
            name=name,
            agents=agents,
            ttl_ms=ttl_ms,
            idle_ms=idle_ms,
            max_open=max_open,
            subject=subject,
            subjects=subjects,
            outlives_ms=outlives_ms,
        )
    return sessions


def _read_limits(section: Section) -> tuple[int, int | None, int | None]:
    """Read how long a session lives, how long without a renewal, and how many an agent has at once."""
    ttl_ms: int = section.take_duration("ttl")
    idle_ms: int | None = section.take_duration("idle", None, most=ttl_ms)
    max_open: int | None = section.take_integer("max_open", None, MAX_OPEN)
    if max_open == 0:
        raise section.error("max_open", "at least 1; to let nobody open a session, take the section out")
    return ttl_ms, idle_ms, max_open


def _read_subject(section: Section, issuers: Mapping[str, Issuer]) -> tuple[SubjectMode, tuple[SubjectRule, ...], int]:
    """Read on whose behalf sessions run: whether, whose, and how long after their token."""
    mode: SubjectMode = section.take_text("subject", "none")
    if mode not in SUBJECT_MODES:
        raise section.error("subject", f"expected one of {', '.join(SUBJECT_MODES)}; came {shorten(mode)}")
    subjects = read_subject_rules(section, issuers)
    outlives_ms = section.take_duration("subject_outlives", None, least=0)
    if mode == "none" and (subjects or outlives_ms is not None):
        raise section.error(None, 'subjects are for sessions with subject = "allowed" or "required"')
    if mode != "none" and not subjects:
        raise section.error("subject", 'needs `subjects`: on whose behalf, such as [ { issuer = "corp" } ]')
    return mode, subjects, outlives_ms or 0


def read_template(name: str, section: Section, audiences: Mapping[str, Any], issuers: Mapping[str, Issuer]) -> Template:
    """Read one ``[task.NAME]``.

    Raises:
        SettingsError: A mistake anywhere in it.
    """
    _check_name(name, section)
    agents = _read_agents(section)
    params = read_params(section, section.take("params", {}))
    ttl_ms = section.take_duration("ttl")
    depth = section.take_integer("depth", DEFAULT_DEPTH, MAX_HOPS)
    wanted = section.take_texts("audience")
    unknown = [audience for audience in wanted if audience not in audiences]
    if unknown or not wanted:
        known = ", ".join(audiences) or "none: add [audience.NAME]"
        raise section.error("audience", f"{', '.join(unknown) or 'nothing'} is not among the audiences: {known}")
    hand_to = section.take_texts("hand_to", None)
    if hand_to is not None:
        _check_patterns("hand_to", hand_to, section, "to let nobody be handed to, say depth = 0")
    require = section.take_texts("require", PROOFS)
    for proof in require:
        if proof not in PROOFS:
            raise section.error("require", f"{shorten(proof)} is no proof that this version knows; it knows: call")
    fresh = section.take_duration("fresh", None, least=0, most=MAX_FRESH_MS)
    net = section.take_texts("net", None)
    subjects = read_subject_rules(section, issuers)
    exchange = _read_exchange(section, wanted, audiences)
    everywhere = tuple(dict.fromkeys([*wanted, *(target for targets in exchange.values() for target in targets)]))
    rules = _read_rules(section, params, everywhere)
    approvals = read_approvals(section, rules, wanted)
    section.finish()
    if any(rule.names_subject for rule in rules) and len({rule.issuer for rule in subjects}) != 1:
        # Two issuers may call two people by one name.
        raise section.error("allow", '"$subject" needs `subjects` of one issuer, such as [ { issuer = "corp" } ]')
    if net is not None:
        _check_networks(net, section)
    return Template(
        name=name,
        agents=agents,
        params=params,
        ttl_ms=ttl_ms,
        depth=depth,
        audiences=wanted,
        rules=rules,
        hand_to=hand_to,
        require=require,
        fresh=fresh,
        net=net or (),
        subjects=subjects,
        exchange=exchange,
        approvals=approvals,
    )


def _read_exchange(section: Section, own: tuple[str, ...], audiences: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Read which service may exchange a token it was called with for one for which others."""
    written = section.take("exchange", {})
    if not isinstance(written, dict):
        raise section.error("exchange", 'expected services and their targets, such as { orders = ["payments"] }')
    table, exchange = section.inner(("exchange",), written), {}
    for service in list(written):
        targets: tuple[str, ...] = table.take_texts(service)
        unknown = [target for target in targets if target not in audiences or target == service]
        if unknown or not targets:
            known = ", ".join(name for name in audiences if name != service) or "none: add [audience.NAME]"
            raise table.error(service, f"{', '.join(unknown) or 'nothing'} is not among the other audiences: {known}")
        exchange[service] = targets
    # One that is reached by an exchange alone may exchange further.
    reached = {*own, *(target for targets in exchange.values() for target in targets)}
    for service in exchange:
        if service not in reached:
            raise section.error("exchange", f"{service} gets no token of this task: it is not in `audience`")
    return exchange


def _read_rules(
    section: Section, params: Mapping[str, ConstraintLike], audiences: tuple[str, ...]
) -> tuple[TemplateRule, ...]:
    written = section.take("allow")
    if not isinstance(written, list) or not written:
        raise section.error("allow", 'expected a list of rules such as { tool = "orders.get", args = { … } }')
    rules = tuple(
        read_template_rule(section.inner(("allow", index), rule), params, audiences)
        for index, rule in enumerate(written)
    )
    for audience in audiences:
        if all(rule.at != audience for rule in rules):
            raise section.error("allow", f"no rule is for {audience}: add one, or take it out of `audience`")
    return rules


def _read_agents(section: Section) -> tuple[str, ...]:
    agents: tuple[str, ...] = section.take_texts("agents")
    _check_patterns("agents", agents, section, 'for all of them, say ["**"]')
    return agents


def _check_patterns(key: str, patterns: tuple[str, ...], section: Section, when_empty: str) -> None:
    if not patterns:
        raise section.error(key, f"needs at least one pattern; {when_empty}")
    for pattern in patterns:
        if not names.is_path_pattern(pattern):
            raise section.error(key, f"{shorten(pattern)} is no pattern: segments, `*` for one, `**` only as the last")


def _check_networks(networks: tuple[str, ...], section: Section) -> None:
    if not networks:
        raise section.error("net", "needs at least one network; leave it out to let calls come from anywhere")
    for network in networks:
        try:
            matching.cidr(network)
        except MalformedTokenError as error:
            raise section.error("net", f"{shorten(network)}: {error}") from error


def _check_name(name: str, section: Section) -> None:
    if _NAME.fullmatch(name) is None:
        raise section.error(None, "a name here is [a-z0-9][a-z0-9._-]*, at most 64 characters")
