# SPDX-License-Identifier: Apache-2.0
"""Limits of a service: what each call must satisfy as well, whatever its token allows.  SPEC 20.

They come from the service's own file or code and never from a token, a policy or the mint.  So they also hold for
tokens that were forged with the service's audience key.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

import arx_verifier.limits as limits
from arx_verifier.addresses import read_network
from arx_verifier.constraints.rule import WireRule, could_permit, permits_with_any, read_rule, wrong_in
from arx_verifier.errors import ArxError, Failure, SettingsError, shorten
from arx_verifier.jcs import encode
from arx_verifier.names import MAX_TOOL_CHARS, is_tool_pattern, matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.compiled_caveats import ToolRules, gather
from arx_verifier.verification.effects import Allow, judge_peer
from arx_verifier.verification.reasons import REQUEST_UNSEEN, Refused, show_time

CODE: Final = "over_service_limit"
PLACE: Final = "service"
MEMBERS: Final = "`rules`, `net`, `hours` or `approve`"
_DIGEST_CHARS: Final = 16  # operators compare them by eye
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(rf"(?:({'|'.join(_DAYS)})(?:-({'|'.join(_DAYS)}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 24 * 60 * _MINUTE_MS
_THURSDAY: Final = 3  # the day of the Unix epoch
_TOO_MUCH: Final = Refused(
    CODE, (Failure(PLACE, "size of the arguments", "fewer or shorter arguments", "more than one call may have tested"),)
)
_NO_APPROVAL: Final = Refused(
    CODE, (Failure(PLACE, "approve", "an approval of the mint", "none, and a token that asks for none"),)
)


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members of limits, as they are written."""

    rules: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)] | None = None
    net: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    hours: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    approve: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None


class ServiceLimits:
    """What each call of a service must satisfy, compiled once.

    Attributes:
        digest: Identifies what they say, 16 hex digits.
    """

    __slots__ = ("_allows", "_approve", "_by_tool", "_hours", "_net", "_texts", "digest")

    def __init__(self, written: Mapping[str, Any]) -> None:
        """Check and compile limits.

        Args:
            written: ``rules``: rules as in a policy, of which each that names the tool must hold, and one has to name
                it; ``net``: networks of callers; ``hours``: times such as ``mon-fri 08:00-18:00``, in UTC;
                ``approve``: tools, or patterns, whose calls need an approval of the mint.

        Raises:
            SettingsError: No member, an unknown one, or a value that SPEC 20 does not allow.
        """
        try:
            terms = msgspec.convert(dict(written), _Terms)
            said = {name: value for name, value in msgspec.structs.asdict(terms).items() if value is not None}
            if not said:
                raise ValueError(f"expected {MEMBERS}, got none")
            rules = [encode(read_rule(rule)) for rule in terms.rules or ()]
            self._allows = tuple([Allow((msgspec.json.decode(raw, type=WireRule),), True) for raw in rules])
            self._net = tuple([(text, read_network(text)) for text in terms.net or ()])
            self._hours = tuple([_read_hours(text) for text in terms.hours or ()])
            if odd := next((each for each in terms.approve or () if not is_tool_pattern(each)), None):
                raise ValueError(f"approve: expected tools such as orders.refund, or patterns, got {shorten(odd)}")
            # By the rules' canonical form: two spellings of one file have one digest.
            canonical = msgspec.json.encode({**said, "rules": [raw.decode() for raw in rules]}, order="sorted")
        except (ValueError, ArxError) as error:
            raise SettingsError(f"invalid limits: {error}") from error
        self._approve = terms.approve or ()
        self._texts = {name: " or ".join(value) for name, value in said.items() if name != "rules"}
        self._by_tool: dict[str, ToolRules | Refused] = {}
        self.digest = hashlib.sha256(canonical).hexdigest()[:_DIGEST_CHARS]

    def judge_circumstances(self, request: AccessRequest, early: int, late: int) -> Refused | None:
        """Refuse a request from another network, or at another time.

        Args:
            request: The request.
            early: The earliest time that it can be, ms since the Unix epoch.
            late: The latest one.
        """
        if self._net and (refused := judge_peer(PLACE, self._net, request)) is not None:
            return Refused(CODE, refused.failures)
        if self._hours and not all([any([_is_within(span, at) for span in self._hours]) for at in (early, late)]):  # noqa: C419 - a generator costs more
            return Refused(CODE, (Failure(PLACE, "hours", f"{self._texts['hours']} UTC", show_time(request.at)),))
        return None

    def judge_tool(self, request: AccessRequest, written: bytes | None, is_unseen: bool) -> Refused | None:
        """Refuse a call that a rule about its tool does not permit, or that no rule is about.

        Args:
            request: The request.
            written: Its arguments' JSON, if it was computed.
            is_unseen: Whether it may have further arguments, in a body that is not seen.
        """
        if not self._allows:
            return None
        tool, args = request.tool, request.args
        rules = self._by_tool.get(tool) or self._gather(tool)
        if isinstance(rules, Refused):
            return rules
        # As of the rules of a token: the caller chooses the size.
        if rules.tests > limits.FREE_TESTS and rules.are_too_much(args, written):
            return _TOO_MUCH
        (group,) = rules.groups
        wrong = wrong_in(group[0], args)
        if is_unseen:
            if permits_with_any(group[0], args):
                return None
            if could_permit(group[0], args):
                return REQUEST_UNSEEN
        elif wrong is None:
            return None
        first, untold = rules.explain_first(group, [PLACE] * len(rules.matching), args, wrong or "")
        return Refused(CODE, first, untold)

    def judge_approval(self, tool: str, proven: ProvenChain) -> Refused | None:
        """Refuse a call that needs an approval and has none, by a token that asks for none.

        Args:
            tool: The tool.
            proven: The chain.  A third-party caveat of it that has no discharge refuses the call by itself.
        """
        if not any([matches_tool(pattern, tool) for pattern in self._approve]):  # noqa: C419 - a generator costs more
            return None
        if any(wanted.when is None and wanted.binds(tool) for _, wanted in proven.unmet) or proven.is_approved(tool):
            return None
        return _NO_APPROVAL

    def could_allow(self, tool: str, known: Mapping[str, Any]) -> bool:
        """Return whether the rules allow some call of a tool; for lists of tools, no decision.

        Args:
            tool: The tool.
            known: The arguments that all its calls have here, such as the URI of a resource.
        """
        rules = self._by_tool.get(tool) or self._gather(tool) if self._allows else None
        return rules is None or (isinstance(rules, ToolRules) and could_permit(rules.groups[0][0], known))

    def _gather(self, tool: str) -> ToolRules | Refused:
        """Return the rules about a tool, as one; or the refusal, if there is none."""
        matching = tuple([allow for allow in self._allows if allow.compiled[0].matches_tool(tool)]) if tool else ()
        found: ToolRules | Refused | None = gather(tool, matching, again=True) if matching else None
        if found is None:
            wanted = " or ".join([allow.rules[0].tool for allow in self._allows])
            found = Refused(CODE, (Failure(PLACE, "tool", wanted, shorten(tool)),))
        if len(tool) <= MAX_TOOL_CHARS:
            # With a token for any tool, a caller could fill the memory with names.
            if len(self._by_tool) >= limits.MAX_TOOLS:
                self._by_tool.clear()
            self._by_tool[tool] = found
        return found

    def __repr__(self) -> str:
        return f"<ServiceLimits {self.digest}>"


LimitsSource: TypeAlias = ServiceLimits | Mapping[str, Any] | str | os.PathLike[str]


def read_limits(source: LimitsSource) -> ServiceLimits:
    """Return limits, compiled.

    Args:
        source: As ``ServiceLimits`` takes them, or the path of a file with them, TOML.

    Raises:
        SettingsError: The file cannot be read, or they are not valid.
    """
    if isinstance(source, ServiceLimits):
        return source
    if isinstance(source, Mapping):
        return ServiceLimits(source)
    import tomllib  # imported on use: limits are mostly given as an argument

    path = Path(source)
    try:
        written = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the limits in {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return ServiceLimits(written)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _read_hours(text: str) -> tuple[frozenset[int], int, int]:
    """Return days of the week, 0 for Monday, and begin and end in a day, ms."""
    form = _HOURS.fullmatch(text)
    if form is None:
        raise ValueError(f"hours: expected a time such as 'mon-fri 08:00-18:00', in UTC, got {shorten(text)}")
    first, last, *clock = form.groups()
    hour, minute, to_hour, to_minute = map(int, clock)
    begin, end = 60 * hour + minute, 60 * to_hour + to_minute
    from_day = _DAYS.index(first or "mon")
    to_day = _DAYS.index(last or first or "sun")
    if max(minute, to_minute) > 59 or not begin < end <= 24 * 60 or from_day > to_day:
        raise ValueError(f"hours: expected a begin before its end, at most 24:00, got {shorten(text)}: write two times")
    return frozenset(range(from_day, to_day + 1)), begin * _MINUTE_MS, end * _MINUTE_MS


def _is_within(span: tuple[frozenset[int], int, int], at: int) -> bool:
    days, begin, end = span
    day, ms = divmod(at, _DAY_MS)
    return (day + _THURSDAY) % 7 in days and begin <= ms < end
