# SPDX-License-Identifier: Apache-2.0
"""The epoch view: kills, freezes and the lease, and the check of a token against them.  SPEC 10.

A *kill* revokes tokens born before it; a *freeze* refuses until a thaw; the *lease* limits how long the view is used.
Nothing here does I/O.  ``follower`` keeps a view current.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from arx_verifier.revocation.history import UNKNOWN, new_incarnation, precedes

KILLING: Final = frozenset(("kill", "kill+freeze"))
FREEZING: Final = frozenset(("freeze", "kill+freeze"))
OPS: Final = frozenset(("kill", "freeze", "kill+freeze", "thaw"))
FOREVER_NS: Final = 2**62  # a deadline that no clock reaches
AT_ONCE: Final = (
    10_000  # kills forgotten in one call: a copy of a million kills expires at once, and must delay no probe
)
# Between a verifier's clock and the store's.
SKEW_MS: Final = 30_000  # beyond it the view is fenced

# CLOCK_BOOTTIME counts suspend, so that a lease ends while the machine sleeps.  On macOS CLOCK_MONOTONIC counts it.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
boot_clock: Final[Callable[[], int]] = functools.partial(time.clock_gettime_ns, _CLOCK)
WATCHES: Final = "~watch-"  # in a name of the registry: after it, until when that process watches, s.  SPEC 12.7
LIMITS: Final = "~limits-"  # before that: the digests of the limits that it applies.  SPEC 20.1


class EpochRefusal(NamedTuple):
    """Why the epoch view refuses a token.

    Attributes:
        code: revoked, frozen, stale, syncing, behind, fenced or closed.
        target: The killed or frozen target, None for the other codes.
        detail: A sentence for people.
    """

    code: str
    target: str | None
    detail: str


_UNLEASED: Final = {  # refusals without a lease, by ``State.refuses``
    "syncing": EpochRefusal("syncing", None, "the view of the revocation epoch is not complete yet"),
    "fenced": EpochRefusal("fenced", None, "the revocation store contradicts itself or this verifier"),
    "closed": EpochRefusal("closed", None, "this verifier's view of the revocation epoch is closed"),
}


class Lease(msgspec.Struct, frozen=True):
    """How long a view may be used; one immutable value, so that a thread reads it whole.

    Attributes:
        boot: Deadline on the boot clock, ns.
        wall: Deadline on the wall clock, ns; the earlier of both ends the lease.
        sent: Boot clock before the probe that earned it left, ns.
    """

    boot: int
    wall: int
    sent: int


class EpochState:
    """One history of the store, as far as the view knows it; replaced whole when the history changes.

    Attributes:
        incarnation: The history's name; empty before the first answer.
        kills: Target to the sequence of its last kill.
        freezes: Frozen target to the sequence of its freeze.
        applied: Every entry up to this sequence is in the two maps; -1 before the first answer.
        lease: None while the view must not be used.
        refuses: The code of refusals without a lease.
    """

    __slots__ = ("applied", "freezes", "incarnation", "kills", "lease", "refuses")

    def __init__(
        self, incarnation: str, kills: dict[str, int], freezes: dict[str, int], applied: int, refuses: str = "syncing"
    ) -> None:
        self.incarnation, self.kills, self.freezes, self.applied = incarnation, kills, freezes, applied
        self.refuses = refuses
        self.lease: Lease | None = None

    def without_lease(self, refuses: str) -> "EpochState":
        """Return the same view without a lease."""
        return EpochState(self.incarnation, self.kills, self.freezes, self.applied, refuses)


# A kill is not needed once every token that it revokes has expired.  The store forgets it then, and its answers have
# that time.  A verifier must forget it as well, or its memory grows with every kill.
class Retention:
    """The kills of one view in the order in which it learned them, to forget those that are not needed."""

    def __init__(self) -> None:
        self._learned: deque[tuple[int, str, int]] = deque()
        self._copied: deque[str] = deque()  # targets whose sequences are at most the copy's
        self._copied_at = self._copied_seq = 0

    def __len__(self) -> int:
        return len(self._copied) + len(self._learned)

    def learn(self, at: int, target: str, seq: int) -> None:
        """Record that a kill was learned.

        Args:
            at: When, boot clock, ns.
            target: Its target.
            seq: Its sequence.
        """
        self._learned.append((at, target, seq))

    def restart(self, at: int, state: EpochState) -> None:
        """Record all kills of a view that was copied at ``at``, boot clock, ns; later entries are learned again."""
        self._learned.clear()
        self._copied = deque(state.kills)
        self._copied_at, self._copied_seq = at, state.applied

    def forget(self, state: EpochState, before: int) -> None:
        """Drop kills learned before ``before``, boot clock, ns; at most ``AT_ONCE`` from each queue.

        A target that was killed again since stays.
        """
        kills = state.kills
        if self._copied_at < before:
            for _ in range(min(AT_ONCE, len(self._copied))):
                target = self._copied.popleft()
                if kills.get(target, self._copied_seq + 1) <= self._copied_seq:
                    del kills[target]
        for _ in range(min(AT_ONCE, len(self._learned))):
            if self._learned[0][0] >= before:
                return
            _, target, seq = self._learned.popleft()
            if kills.get(target) == seq:
                del kills[target]


class RegistryName(NamedTuple):
    """A process's name in the registry, with what its verifiers do.

    Attributes:
        id: The verifier's or relay's id.
        limits: The digests of the limits of its service that it applies, joined by "+"; None if it applies none.
            SPEC 20.1
        until_ms: Until when it watches, ms since the Unix epoch; None if it does not.  SPEC 12.7
    """

    id: str
    limits: str | None
    until_ms: int | None

    def __str__(self) -> str:
        limits = f"{LIMITS}{self.limits}" if self.limits else ""
        watch = "" if self.until_ms is None else f"{WATCHES}{-(-self.until_ms // 1000)}"
        return f"{self.id}{limits}{watch}"

    @classmethod
    def read(cls, text: str) -> "RegistryName":
        """Read a name as the registry has it.

        Args:
            text: The name.
        """
        named, mark, until_s = text.rpartition(WATCHES)
        if not mark or not until_s.isdecimal() or len(until_s) > 12:
            named, until_s = text, ""
        verifier_id, _, limits = named.partition(LIMITS)
        return cls(verifier_id, limits or None, int(until_s) * 1000 if until_s else None)


def show_until(until_ms: int) -> str:
    """Return the end of a watch as text.

    Args:
        until_ms: ms since the Unix epoch.
    """
    from datetime import UTC, datetime  # imported on use: a view that nothing watches needs none

    return datetime.fromtimestamp(until_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Epochs(Protocol):
    """The view of revocation that a verifier needs.

    Attributes:
        watch_until_ms: Until when a guard of this process watches, ms since the Unix epoch; 0 if none does.  SPEC 12.7
        limits: The digest of each of the service's limits that a verifier of this process applies.  SPEC 20.1
    """

    watch_until_ms: int
    limits: tuple[str, ...]

    def check(
        self, incarnation: str | None, born: int, targets: Sequence[str], sent_after: int = 0
    ) -> EpochRefusal | None:
        """Return why a token is refused, or None; never wait.  SPEC 10.4.

        Args:
            incarnation: The incarnation that the token was born in; None for an operator's token.
            born: The sequence that the token was born at.
            targets: All targets whose kill or freeze ends the token.
            sent_after: Boot clock, ns.  The lease must come from a probe sent at or after it (``fresh``).
        """

    def ended(self, incarnation: str | None, born: int, targets: Sequence[str]) -> EpochRefusal | None:
        """Return the kill or the freeze of a token that the view knows, whether or not the view may be used.

        Args:
            incarnation: As of ``check``; so are the others.
            born: See there.
            targets: See there.
        """

    def boot_ns(self) -> int:
        """Return the clock of ``Lease.sent``, ns."""

    def times_ms(self, at: int) -> tuple[int, int]:
        """Return the earliest and the latest possible time, by the caller's clock and the store's.

        Args:
            at: The time by the caller's clock.  All three are ms since the Unix epoch.
        """

    def wrong_clock(self) -> str | None:
        """Return how far the caller's clock is from the store's if it is too far to decide; else None."""

    def is_unattested(self) -> bool:
        """Return whether the store grants no lease because no mint has attested its server.  SPEC 10.8."""

    def view(self) -> tuple[str, int, int]:
        """Return incarnation, applied sequence and the view's age in ms, -1 without a view."""

    def chain_at(self, incarnation: str, seq: int) -> str:
        """Return the chain hash at a place, as ``HistoryPlace.chain``, if this view is there; else ``UNKNOWN``.

        Args:
            incarnation: The history's name.
            seq: The sequence.
        """

    def lease_left_ns(self) -> int:
        """Return how long the view may be used without another answer, ns; 0 if it may not."""

    @property
    def freeze_changes(self) -> int:
        """A number that is another one after each change of ``freezes``."""

    def freezes(self) -> dict[str, int]:
        """Return a copy of the frozen targets, whether or not the view may be used."""

    def catch_up(self, sent_after: int, born: int, timeout: float) -> bool:
        """Wait until a probe sent at or after ``sent_after`` was answered and ``born`` is applied.

        Args:
            sent_after: Boot clock, ns.
            born: A sequence.
            timeout: The longest wait, s.

        Returns:
            Whether that happened in time.
        """

    async def catch_up_async(self, sent_after: int, born: int, timeout: float) -> bool:  # noqa: ASYNC109 - as catch_up
        """As ``catch_up``, without blocking the event loop."""

    def start(self) -> None:
        """Start following; do nothing if it is following."""

    def close(self) -> None:
        """Stop; every later check refuses."""


# Two orders are needed for correctness.  The writer applies entries, then moves `applied`, then grants the lease.  The
# reader takes the lease first, then kills and freezes, and reads the clocks last.
class EpochTable:
    """A view whose sequence only rises, and its lease.  One thread writes; any thread checks.

    Args:
        boot: Clock in ns that never steps and counts sleep.
        wall: Wall clock in ns, which can end a lease as well.
    """

    watch_until_ms = 0
    limits: tuple[str, ...] = ()

    def __init__(self, *, boot: Callable[[], int] = boot_clock, wall: Callable[[], int] = time.time_ns) -> None:
        self._boot, self._wall = boot, wall
        self._state = EpochState("", {}, {}, -1)
        self._retired: set[str] = set()
        self._store_clock: tuple[int, int] | None = None  # (store time, sent), ns
        self._fenced = _UNLEASED["fenced"]
        self._freeze_changes = 0

    def check(
        self, incarnation: str | None, born: int, targets: Sequence[str], sent_after: int = 0
    ) -> EpochRefusal | None:
        """Check one token against kills, freezes and the lease.  SPEC 10.

        Args:
            incarnation: The incarnation the token was born in; None for an operator's token, which outlives histories.
            born: The sequence that the mint had applied before it checked the caller's authority.
            targets: All targets whose kill revokes this token.
            sent_after: Boot clock, ns.  The lease must come from a probe sent at or after it (``fresh``).

        Returns:
            None if the token may be accepted, else the refusal.
        """
        state = self._state
        lease = state.lease
        if lease is None:
            return self._unleased(state)
        # Sequences of two histories cannot be compared: a kill in this one may have a lower number than ``born``.
        if incarnation != state.incarnation and incarnation is not None:
            return EpochRefusal("revoked", None, "the token belongs to another history of the revocation store")
        if born > state.applied:
            return EpochRefusal("behind", None, f"the token was born at {born}, this view is at {state.applied}")
        if (ended := self._ended(state, born, targets)) is not None:
            return ended
        # The clocks come last: a thread that was suspended above must find its lease ended, not trust an old reading.
        if lease.sent < sent_after:
            return EpochRefusal("stale", None, "the view is older than the token's fresh caveat allows")
        if self._boot() >= lease.boot or self._wall() >= lease.wall:
            return EpochRefusal("stale", None, "the lease on the view of the revocation epoch ran out")
        return None

    def ended(self, incarnation: str | None, born: int, targets: Sequence[str]) -> EpochRefusal | None:
        """Return the kill or the freeze of a token that the view knows, whether or not the view may be used.

        Args:
            incarnation: As of ``check``; so are the others.
            born: See there.
            targets: See there.
        """
        state = self._state
        if incarnation is None or incarnation == state.incarnation:
            return self._ended(state, born, targets)
        # The sequences of another history show nothing, and without a lease this one may be a wrong one.
        return None if state.lease is None else self.check(incarnation, born, targets)

    @staticmethod
    def _ended(state: EpochState, born: int, targets: Sequence[str]) -> EpochRefusal | None:
        kills, freezes = state.kills, state.freezes
        # Most tokens have no killed target, which one set operation shows.  All kills come before the freezes: a thaw
        # ends only the latter.
        if kills and not kills.keys().isdisjoint(targets):
            for target in targets:
                if target in kills and kills[target] > born:
                    return EpochRefusal("revoked", target, f"{target} was killed at {kills[target]}, after {born}")
        if freezes and not freezes.keys().isdisjoint(targets):
            frozen = next(target for target in targets if target in freezes)
            return EpochRefusal("frozen", frozen, f"{frozen} is frozen")
        return None

    def boot_ns(self) -> int:
        """Return the clock of ``Lease.sent``, ns."""
        return self._boot()

    def times_ms(self, at: int) -> tuple[int, int]:
        """Return the earliest and the latest possible time, ms since the Unix epoch.

        ``nbf`` is compared with the first value, ``exp`` with the second.

        Args:
            at: The time by the caller's clock, ms since the Unix epoch.
        """
        # A kill is forgotten once everything that it revokes has expired by the store's clock.  A caller whose clock is
        # late must not accept such a token.
        if self._store_clock is None:
            return at, at
        store_ns, sent = self._store_clock
        store = (store_ns + self._boot() - sent) // 1_000_000
        return (at, store) if at < store else (store, at)

    def wrong_clock(self) -> str | None:
        """Return None: a table alone has no other clock to compare with."""
        return None

    def is_unattested(self) -> bool:
        """Return False: this view asks no store."""
        return False

    def view(self) -> tuple[str, int, int]:
        """Return incarnation, applied sequence and age of the view in ms; the age is -1 without a lease."""
        state = self._state
        if (lease := state.lease) is None:
            return state.incarnation, state.applied, -1
        age = self._boot() - lease.sent
        return state.incarnation, state.applied, age // 1_000_000 if age > 0 else 0

    def chain_at(self, incarnation: str, seq: int) -> str:  # noqa: ARG002 - as ``Epochs`` has it
        """Return ``UNKNOWN``: a table alone does not keep chain hashes."""
        return UNKNOWN

    def lease_left_ns(self) -> int:
        """Return how long the view may be used without another answer, ns; 0 if it may not."""
        lease = self._state.lease
        return 0 if lease is None else max(0, min(lease.boot - self._boot(), lease.wall - self._wall()))

    @property
    def freeze_changes(self) -> int:
        """A number that is another one after each change of ``freezes``."""
        return self._freeze_changes

    def freezes(self) -> dict[str, int]:
        """Return a copy of the frozen targets, whether or not the view may be used."""
        return self._state.freezes.copy()

    def catch_up(self, sent_after: int, born: int, timeout: float) -> bool:  # noqa: ARG002 - likewise
        """Return whether the view has caught up; a table alone has nothing to wait for."""
        state = self._state
        lease = state.lease
        return lease is not None and lease.sent >= sent_after and state.applied >= born

    async def catch_up_async(self, sent_after: int, born: int, timeout: float) -> bool:  # noqa: ASYNC109 - as catch_up
        """As ``catch_up``."""
        return self.catch_up(sent_after, born, timeout)

    def start(self) -> None:
        """Open a closed table; it has no lease until one is granted."""
        if self._state.refuses == "closed":
            self._state = self._state.without_lease("syncing")

    def close(self) -> None:
        """Refuse everything as ``closed``."""
        self._state = self._state.without_lease("closed")

    # For the writer's thread alone.
    def apply(self, seq: int, op: str, target: str) -> bool:
        """Apply an entry.

        Returns:
            Whether all entries before it were applied; if not, only its kill or freeze was applied.

        Raises:
            ValueError: The operation is unknown.
        """
        if op not in OPS:
            raise ValueError(f"unknown operation {op!r}")
        state = self._state
        if seq <= state.applied:
            return True
        in_order = seq == state.applied + 1
        if op in KILLING and state.kills.get(target, 0) < seq:
            state.kills[target] = seq
        if op in FREEZING and state.freezes.get(target, 0) < seq:
            state.freezes[target] = seq
            self._freeze_changes += 1  # after the change: a reader that sees the number sees the change
        # A thaw that overtook its freeze must wait for the log: applied now, the later freeze would never end.
        if op == "thaw" and in_order and state.freezes.get(target, seq) < seq:
            del state.freezes[target]
            self._freeze_changes += 1
        if in_order:
            state.applied = seq
        return in_order

    def adopt(self, incarnation: str, applied: int, kills: Mapping[str, int], freezes: Mapping[str, int]) -> None:
        """Replace the view by a copy of the store, without a lease.

        Another history retires the old one permanently.

        Args:
            incarnation: The copy's history.
            applied: Its sequence.
            kills: Its kills.
            freezes: Its freezes.
        """
        old = self._state
        merged = dict(kills)
        if incarnation == old.incarnation:
            if applied < old.applied:
                self.fence(f"the store went back from {old.applied} to {applied}", retire=True)
                return
            merged.update({s: kill for s, kill in old.kills.items() if kill > merged.get(s, 0)})
        elif old.incarnation:
            self._retired.add(old.incarnation)
        self._state = EpochState(incarnation, merged, dict(freezes), applied)
        self._freeze_changes += 1

    def is_over(self, incarnation: str) -> bool:
        """Return whether a history was retired here, or ended before this view's began."""
        return incarnation in self._retired or precedes(incarnation, self._state.incarnation)

    def renew(self, incarnation: str, seq: int, lease: Lease, store_ns: int | None = None) -> bool:
        """Grant a lease if the view contains everything that the answer knew; return whether it does.

        Args:
            incarnation: The incarnation in the answer.
            seq: The sequence in the answer.
            lease: The lease, counted from before the probe left.
            store_ns: The store's clock in the answer, ns.
        """
        state = self._state
        if state.refuses == "closed" or incarnation != state.incarnation or seq != state.applied:
            return False
        if incarnation in self._retired:
            self.fence("the store returned to a history that had ended")
            return False
        if store_ns is not None:
            self._store_clock = (store_ns, lease.sent)
        state.lease = lease
        state.refuses = "syncing"
        return True

    def fence(self, detail: str, *, retire: bool = False) -> None:
        """Refuse everything until a probe succeeds in a history that was never retired.

        Args:
            detail: Why, for people.
            retire: Whether to retire this history permanently: its sequences were used twice, or its kills are lost.
        """
        state = self._state
        if retire and state.incarnation:
            self._retired.add(state.incarnation)
        self._fenced = EpochRefusal("fenced", None, detail)
        self._state = state.without_lease("fenced")

    def _unleased(self, state: EpochState) -> EpochRefusal:
        return self._fenced if state.refuses == "fenced" else _UNLEASED[state.refuses]


class UnsafeLocalEpochs(EpochTable):
    """An epoch in this process's memory, always fresh.  For examples and tests alone.

    Args:
        incarnation: The incarnation; random when omitted.
    """

    def __init__(self, incarnation: str | None = None) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self.adopt(incarnation or new_incarnation(), 0, {}, {})
        self._live()

    @property
    def incarnation(self) -> str:
        """The incarnation to mint with."""
        return self._state.incarnation

    @property
    def seq(self) -> int:
        """The sequence to mint with, as ``born``."""
        return self._state.applied

    def kill(self, *targets: str) -> int:
        """Revoke the tokens of these targets that were born before now; return the new sequence."""
        return self._bump("kill", targets)

    def freeze(self, *targets: str) -> int:
        """Refuse these targets until a thaw; return the new sequence."""
        return self._bump("freeze", targets)

    def thaw(self, *targets: str) -> int:
        """End the freezes of these targets; return the new sequence."""
        return self._bump("thaw", targets)

    def start(self) -> None:
        """Open it after a close."""
        super().start()
        self._live()

    def _live(self) -> None:
        self.renew(self._state.incarnation, self._state.applied, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))

    def _bump(self, op: str, targets: Sequence[str]) -> int:
        with self._lock:
            for target in targets:
                self.apply(self._state.applied + 1, op, target)
            return self._state.applied
