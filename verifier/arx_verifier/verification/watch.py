# SPDX-License-Identifier: Apache-2.0
"""Watch mode: which refusals hold all the same, and the calls that go on without a grant.  SPEC 12.7.

Only who deploys a service can switch it on, by an argument of its guard.  ``verifier`` takes the steps.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypedDict

import msgspec

from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, Failure, SettingsError, refusal
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts
from arx_verifier.revocation.epoch import Epochs, show_until
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import Refused, missing_discharge

if TYPE_CHECKING:
    from arx_verifier.verification.service_limits import LimitsSource

DAYS: Final = 30  # the longest watch: longer, and it would be the way that the service is run
_DAY_MS: Final = 24 * 60 * 60 * 1000
ENFORCED: Final = frozenset(("revoked", "frozen", "already_used", "missing_discharge", "replayed"))
# The refusals of rules, limits and budgets: the proof of such a call was verified, and every other step allows it.
OF_RULES: Final = frozenset(
    (
        *("tool_not_allowed", "argument_not_allowed", "over_service_limit"),
        *("insufficient_budget", "budget_exhausted", "budget_unsupported"),
        *("after_mark", "mark_missing", "mark_unsupported"),
    )
)
_CREDENTIALS: Final = frozenset(("authorization", "cookie", "dpop", "proxy-authorization", "x-api-key"))
_SECRET: Final = re.compile(
    r"pass(word|wd|phrase|code)|pass$|pwd|secret|token|credential|authorization|cookie|api.?key|private.?key"
    r"|access.?key|^otp$|^pin$|cvv|^cvc|session.?id|signature|^bearer$|^auth$|jwt",
    re.IGNORECASE,
)


class WatchOptions(TypedDict, total=False):
    """The arguments of a guard that watches.

    Attributes:
        mode: ``watch`` lets calls go on that would be refused, until ``until``.
        until: When the watch ends, at most 30 days ahead: a time with its zone, or text such as
            ``2026-12-20T00:00:00Z``.  From then on the guard enforces, also after a restart.
        record: ``arguments`` records each call with its arguments, with or without a token.
        group_by: What the calls without a token are grouped by in such records: ``address``, or a header's name.
    """

    mode: Literal["enforce", "watch"]
    until: datetime | str | None
    record: Literal["arguments"] | None
    group_by: str | None


class GuardOptions(WatchOptions, total=False):
    """The arguments that all guards have; no token, policy or mint can change them.

    Attributes:
        limits: What each call must satisfy as well, whatever its token allows, or the file with it.
        effects: Tools, or patterns of them, whose effects are recorded too.  SPEC 12.8.
    """

    limits: "LimitsSource | None"
    effects: Collection[str]


class ServerOptions(GuardOptions, total=False):
    """The arguments that all guards of servers have.

    Attributes:
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        recheck_ms: Longest time between two rechecks of the grant of running work, ms; at least 1.
    """

    trusted_proxies: Iterable[str]
    recheck_ms: int


class Watch(msgspec.Struct, frozen=True):
    """How long a guard watches, and what it records.

    Attributes:
        until_ms: When the watch ends, ms since the Unix epoch.
        records: Whether each call is recorded with its arguments.
        group_by: ``address``, the name of a header in lower case, or empty.
    """

    until_ms: int
    records: bool = False
    group_by: str = ""

    def is_on(self) -> bool:
        """Return whether the watch has not ended."""
        return now_ms() < self.until_ms

    def spares(self, code: str) -> bool:
        """Return whether a refusal lets its call go on now."""
        return code not in ENFORCED and self.is_on()

    def enforced(self, refused: ArxError | None, epochs: Epochs, proven: ProvenChain) -> ArxError | None:
        """Return the error that ends a running call; None if it may go on.

        Args:
            refused: The result of its recheck.
            epochs: The epoch view.
            proven: Its token.
        """
        if refused is None or not self.spares(refused.code):
            return refused
        code = ended_by(epochs, proven)  # a token that has expired as well as it was killed: the kill counts
        return None if code is None else refusal(code)


def read_watch(
    mode: str = "enforce",
    until: datetime | str | None = None,
    record: str | None = None,
    group_by: str | None = None,
) -> Watch | None:
    """Return the watch that the arguments of a guard ask for; None for a guard that enforces.

    Args:
        mode: As in ``WatchOptions``; so are the others.
        until: See there.
        record: See there.
        group_by: See there.

    Raises:
        SettingsError: An argument is malformed, ``until`` is missing or more than 30 days ahead, or it is given without
            the mode.
    """
    if mode == "enforce":
        if until is not None or record is not None or group_by is not None:
            raise SettingsError('until, record and group_by: expected mode = "watch" with them, got "enforce"')
        return None
    if mode != "watch":
        raise SettingsError(f'mode: expected "enforce" or "watch", got {mode!r:.60}')
    if record not in (None, "arguments") or (group_by is not None and record is None):
        raise SettingsError(f'record: expected "arguments" or nothing, and group_by with it alone, got {record!r:.60}')
    if (group_by or "").lower() in _CREDENTIALS:
        raise SettingsError(
            f"group_by: expected no header with a credential, got {group_by!r:.60}: it would be recorded"
        )
    until_ms = _read_time(until)
    ahead_ms = until_ms - now_ms()
    if ahead_ms > DAYS * _DAY_MS:
        raise SettingsError(f"until: expected at most {DAYS} days ahead, got {ahead_ms / _DAY_MS:.1f} days")
    if ahead_ms <= 0:
        warn("the watch has ended at %s: calls are refused; remove mode and until", show_until(until_ms))
    return Watch(until_ms, record is not None, (group_by or "").lower())


def _read_time(until: datetime | str | None) -> int:
    try:
        time = datetime.fromisoformat(until) if isinstance(until, str) else until
    except ValueError:
        time = None
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise SettingsError(
            f"until: expected a time with its zone, such as 2026-12-20T00:00:00Z, at most {DAYS} days ahead, "
            f"got {until!r:.60}"
        )
    return int(time.timestamp() * 1000)


def warn(text: str, *values: object) -> None:
    """Log a warning.

    Args:
        text: The text, with ``%s``.
        values: Its values.
    """
    import logging  # imported on use, to keep the import fast: a service that enforces needs none

    logging.getLogger(__name__).warning(text, *values)


def without_secrets(args: Mapping[str, Any], depth: int = 32) -> dict[str, Any]:
    """Return arguments without the members whose names look like those of secrets, at any depth.

    Args:
        args: The arguments.
        depth: How deep to look; what is deeper is left out.
    """
    return {name: _bare(value, depth) for name, value in args.items() if not _SECRET.search(str(name))}


def _bare(value: Any, depth: int) -> Any:
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return without_secrets(value, depth - 1)
    return [_bare(each, depth - 1) for each in value]


class SparedRefusals(msgspec.Struct):
    """The refusals of one call that do not hold while the service watches.

    Attributes:
        watch: The watch.
        first: The first one, for which an enforcing service would refuse; None if there is none.
        of_rules: Whether all of them are those of rules, limits and budgets.
        spends: Whether the proof of the call was verified, so that its nonce is spent: not by another call's proof.
    """

    watch: Watch
    first: Refused | None = None
    of_rules: bool = True
    spends: bool = True

    def spare(self, refused: Refused | None) -> Refused | None:
        """Return a refusal that holds all the same; note another one, and return None."""
        if refused is None or refused.code in ENFORCED:
            return refused
        self.first = self.first or refused
        self.of_rules = self.of_rules and refused.code in OF_RULES
        return None

    def spare_of_view(self, refused: Refused | None, epochs: Epochs, proven: ProvenChain) -> Refused | None:
        """Return what holds of the refusal of step 5: a kill and a freeze, however old the view is."""
        code = None if refused is None else ended_by(epochs, proven)
        return self.spare(refused) if code is None else Refused(code, ())

    def spare_judged(self, refused: Refused | None, proven: ProvenChain, tool: str) -> Refused | None:
        """Return what holds of the refusal of step 4: ``missing_discharge``, which is judged last, with any other."""
        held = self.spare(refused)
        self.spends = self.of_rules
        if held is None and refused is not None and proven.unmet:
            held = missing_discharge(proven.unmet, tool)
        self.of_rules = self.of_rules and bool(tool)  # no rule names a route that `tools` does not
        return held


class WatchedCall(msgspec.Struct, eq=False):
    """A call that goes on in watch mode although it would be refused.  It has no grant.

    Attributes:
        code: The reason.
        failures: The conditions that did not hold.
        decision: The id of the recorded decision; empty without one.
        tool: The tool.
        facts: The facts of its authentic token; none without one.
        of_rules: Whether a rule, a limit or a budget alone would refuse it: its token is authentic, of this audience,
            in time, and neither revoked nor frozen.
    """

    KEY: ClassVar[str] = "arx.watch"  # where a handler finds it: in the scope of ASGI, in the environ of WSGI
    has_budget: ClassVar[bool] = False

    code: str
    failures: tuple[Failure, ...]
    decision: str
    tool: str
    facts: ChainFacts
    of_rules: bool
    _watch: Watch
    _epochs: Epochs
    _proven: ProvenChain | None

    @classmethod
    def of(
        cls, decision: Decision, watch: Watch, epochs: Epochs, proven: ProvenChain | None, *, of_rules: bool
    ) -> "WatchedCall":
        """Return the call of a recorded decision.

        Args:
            decision: The decision.
            watch: The watch of its guard.
            epochs: The epoch view.
            proven: Its token, if that is authentic.
            of_rules: As the attribute.
        """
        facts, failures = decision.facts, decision.failures
        return cls(decision.code, failures, decision.id, decision.tool, facts, of_rules, watch, epochs, proven)

    @property
    def lends(self) -> bool:
        """Whether a gateway lends it its own credential, as it does to each call with a grant."""
        return self.of_rules

    def refusal(self) -> ArxError:
        """Return the error that an enforcing service would raise."""
        return refusal(self.code, self.failures)

    def look_again(self) -> ArxError | None:
        """Return why the call may not go on, or None: its token was killed or frozen, or the watch has ended."""
        if not self._watch.is_on():
            return self.refusal()
        code = None if self._proven is None else ended_by(self._epochs, self._proven)
        return None if code is None else refusal(code)

    def unset(self) -> None:
        """Return nothing: without a grant it sets no mark."""

    def leave(self) -> None:
        """Do nothing: without a grant it sets no mark."""

    def end(self, _: ArxError) -> None:
        """Do nothing: it has no grant that ends."""

    async def give_back(self) -> None:
        """Do nothing: it has drawn on no budget."""

    def remaining_text(self) -> str:
        """Return nothing: it has no budget."""
        return ""

    remaining: ClassVar[dict[str, str]] = {}

    def __repr__(self) -> str:
        return f"<WatchedCall of {self.tool}, would refuse: {self.code}>"


def ended_by(epochs: Epochs, proven: ProvenChain) -> str | None:
    """Return ``revoked`` or ``frozen`` if a token was killed or is frozen, however old the view is; else None."""
    found = epochs.ended(*proven.identifier.born, proven.targets)
    return found.code if found is not None and found.code in ENFORCED else None
