# SPDX-License-Identifier: Apache-2.0
"""Rules of following the store: when to probe, how to apply an answer, when to drop a connection.  SPEC 10.

Nothing here opens, waits or starts a thread; clocks are passed in.  ``follower`` adds a thread and a connection; the
tests' simulator adds a faulty world.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from arx_verifier.revocation.epoch import KILLING, SKEW_MS, EpochTable, Lease, Retention, boot_clock
from arx_verifier.revocation.history import NOWHERE, HistoryPlace, precedes
from arx_verifier.revocation.store_link import CORRUPT, OK, REGRESSED, RESYNC, EpochEntry, FeedError, StoreAnswer

MS: Final = 1_000_000  # ns
PROBE_MS: Final = 250  # a quarter of the default lease: three answers may be lost
PROBES: Final = 4  # in a lease
DRIFT_DIVISOR: Final = 500  # two clocks, each at most 0.1 % off, differ by at most 1/500
MIN_GAP_MS: Final = 5  # between probes for waiting requests, which share a probe
# A push goes to all followers.  A follower confirms it after a pause, so that the store and its machine can first
# deliver it to the others.
CONFIRM_NS: Final = 40_000  # pause for each follower; about the time that one needs to take a push
CONFIRM_MOST_MS: Final = 50
ANSWER_MS: Final = 1_000  # longest wait for an answer, if a lease is not shorter; then the connection is dropped

_log = logging.getLogger(__name__)


class StoreQuestion(NamedTuple):
    """The content of a probe: the view's place, and whether a caller waits."""

    place: HistoryPlace
    hurry: bool = False


class Following(EpochTable):
    """An epoch view with the rules that keep it current.  One thread follows; any thread checks.

    Args:
        lease_ms: The longest time to use one answer, ms; the realm's lease if that is shorter, or when omitted.
        probes: Number of probes in a lease.
        boot: Clock in ns that never steps and counts sleep.
        wall: Wall clock in ns, which can end a lease as well.

    Attributes:
        several: Whether it follows one of several relays, and goes to the next when a connection is dropped.
    """

    several = False

    def __init__(
        self,
        *,
        lease_ms: int | None = None,
        probes: int = PROBES,
        boot: Callable[[], int] = boot_clock,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(boot=boot, wall=wall)
        self._lease_ms = lease_ms
        self._probes = probes
        self._interval = PROBE_MS * MS
        self._timeout_s = min(lease_ms or ANSWER_MS, ANSWER_MS) / 1000
        self._retention = Retention()
        self._place = NOWHERE  # of the last applied entry; the follower's thread writes it
        self._sent: tuple[int, int] | None = None  # boot and wall clock before the probe in flight left
        self._is_first = True  # whether no probe of this connection was answered
        self._last = 0  # when the last probe left, boot clock, ns
        self._due = 0  # when the next one must leave, boot clock, ns
        self._patience = 0  # pause before a push is confirmed, ns
        self._wrong_clock: str | None = None  # from the last answer; the follower's thread writes it

    def chain_at(self, incarnation: str, seq: int) -> str:
        """Return the chain hash at a place, if this view is there, else ``UNKNOWN``."""
        return self._place.chain_at(incarnation, seq)

    def wrong_clock(self) -> str | None:
        """Return how far this clock is from the store's, if the last answer showed that it is too far; else None."""
        return self._wrong_clock

    def begin(self) -> None:
        """Forget the probe in flight: there is a new, subscribed connection without a probe."""
        self._sent = None
        self._due = 0
        self._is_first = True

    def next_at(self, *, hurry: bool = False) -> int:
        """Return when ``ask`` is due if nothing arrives before, boot clock, ns.

        Args:
            hurry: Whether a caller waits for an answer.
        """
        if self._sent is not None:
            # The other half of the lease is for the next relay.  A new connection gets all the time: relays that are
            # slow, but answer, must not be left in turn for ever.
            return self._sent[0] + (int(self._timeout_s * 1e9) if self._is_first else self._patience_ns())
        if hurry:
            return min(self._due, self._last + MIN_GAP_MS * MS)
        return self._due

    def ask(self, *, hurry: bool = False) -> StoreQuestion | None:
        """Return the probe to send now, if one is due.

        It must leave after this call, on the current connection.

        Args:
            hurry: Whether a caller waits for an answer.

        Raises:
            FeedError: The last probe was not answered in time.
        """
        if self._boot() < self.next_at(hurry=hurry):
            return None
        if self._sent is not None:
            raise FeedError("no answer in time")
        # Both clocks are read before a byte leaves: a slow network must not lengthen the lease.
        state = self._state
        self._sent = (self._boot(), self._wall())
        self._last = self._sent[0]
        self._due = self._last + self._interval
        # A child that was forked while an entry was applied does not know the chain hash: it copies the kills again.
        chain = self.chain_at(state.incarnation, state.applied)
        # A relay may know less than the one before it, such as a history that has ended since.  So the first answer of
        # each connection must be newer than its probe: the relay asks upstream for it.
        return StoreQuestion(HistoryPlace(state.incarnation, state.applied, chain), hurry or self._is_first)

    def take_push(self, entry: EpochEntry) -> None:
        """Apply a published entry, and make a probe due.

        The probe confirms the entry, fills a gap, or finds a new history.

        Raises:
            FeedError: The operation is unknown.
        """
        state = self._state
        if entry.incarnation == state.incarnation and entry.seq <= state.applied:
            return
        if entry.incarnation == state.incarnation and self._apply(entry):  # never touches the lease
            self._due = min(self._due, self._boot() + self._patience)
        else:
            self._due = 0

    def take_answer(self, answer: StoreAnswer, copy: Callable[[str], dict[str, int]]) -> None:
        """Apply the answer to the probe in flight.

        Args:
            answer: The store's answer.
            copy: Copies a hash of the store, ``k`` or ``f``, target to sequence; may raise a ``FeedError``.

        Raises:
            FeedError: There is no probe in flight, or the answer contradicts itself or this view.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            raise FeedError("an answer without a probe")
        self._is_first = False
        if self.several:
            self._expect_useful(answer)
        # A relay's answer was true some time before the question: its age is subtracted from the lease.  SPEC 10.7
        age = answer.age_ns + -(-answer.age_ns // DRIFT_DIVISOR)
        self._compare_clocks(answer.at_ms, sent[1] - age)
        if answer.status == OK:
            self._take_entries(answer, sent[0] - age, sent[1] - age)
        elif answer.status in (REGRESSED, CORRUPT):
            self._distrust(answer)
        elif self.is_over(answer.incarnation):
            self._alarm("the store returned to a history that had ended", retire=False)
        else:
            kills, freezes = copy("k"), copy("f")
            self.adopt(answer.incarnation, answer.seq, kills, freezes)
            self._place = HistoryPlace(answer.incarnation, answer.seq, answer.chain)
            self._retention.restart(self._boot(), self._state)
            self._due = 0  # the entries after answer.seq contain what the copy missed

    def _lease_of(self, answer: StoreAnswer) -> int:
        return min(self._lease_ms or answer.lease_ms, answer.lease_ms)

    def _patience_ns(self) -> int:
        """Return how long an answer may take on a connection that had one, ns."""
        return int(self._timeout_s * 1e9) // (2 if self.several else 1)

    # Another relay may still be right: such an answer changes neither the view nor the lease.
    def _expect_useful(self, answer: StoreAnswer) -> None:
        """Leave one of several relays that is behind the store or this view, or that may be."""
        if answer.age_ns > min(self._lease_of(answer), ANSWER_MS) * MS // 2:
            raise FeedError("the relay has heard nothing from the store for half a lease")
        own, other = self._state.incarnation, answer.incarnation
        lacks = other == own and answer.status == RESYNC and answer.seq < self._state.applied
        # Without an order of two histories, the relay's may be the earlier one.
        unknown = other != own and not precedes(own, other) and self.lease_left_ns() > 0
        if lacks or unknown or answer.status in (REGRESSED, CORRUPT) or self.is_over(other):
            raise FeedError("the relay has less than this view, or a history that has ended")

    def _take_entries(self, answer: StoreAnswer, sent: int, sent_wall: int) -> None:
        if answer.incarnation != self._state.incarnation:
            # A new history starts with a copy (RESYNC), never with entries: kills before them would be missing.
            raise FeedError("an answer from another history")
        if self._wrong_clock is not None:
            self._alarm(self._wrong_clock, retire=False)
            return
        for entry in answer.entries:
            if not self._apply(entry):
                raise FeedError("entries are missing in the store's log")
        if self._state.applied < answer.seq:
            self._due = 0  # the answer was cut short: no lease before the rest arrives
            return
        if self._state.applied == answer.seq and self._place != (answer.incarnation, answer.seq, answer.chain):
            self._distrust(answer._replace(status=REGRESSED))  # the store has used sequences twice
            return
        lease_ms = self._lease_of(answer)
        self._timeout_s = min(lease_ms, ANSWER_MS) / 1000
        self._interval = min(PROBE_MS, max(1, lease_ms // self._probes)) * MS
        self._due = min(self._due, self._last + self._interval)
        self._patience = min(answer.askers * CONFIRM_NS // MS, CONFIRM_MOST_MS) * MS  # whole ms, the unit of a poll
        lease = Lease(sent + lease_ms * MS, sent_wall + lease_ms * MS, sent)
        self.renew(answer.incarnation, answer.seq, lease, answer.at_ms * MS)
        self._retention.forget(self._state, self._boot() - answer.keep_ms * MS)

    def _compare_clocks(self, at_ms: int, sent_wall: int) -> None:
        """Compare the store's clock in an answer (ms) with this clock when the probe left (ns), and now."""
        wall_ms = self._wall() // MS
        if sent_wall // MS - SKEW_MS <= at_ms <= wall_ms + SKEW_MS:
            self._wrong_clock = None
            return
        off_s = wall_ms // 1000 - at_ms // 1000
        off = f"{off_s} s ahead of" if off_s > 0 else f"{-off_s} s behind"
        limit = f"expected at most {SKEW_MS // 1000} s; set both clocks by NTP"
        self._wrong_clock = f"this clock is {off} the revocation store's: {limit}"

    def _apply(self, entry: EpochEntry) -> bool:
        try:
            in_order = self.apply(entry.seq, entry.op, entry.target)
        except ValueError as error:
            raise FeedError("an entry of an unknown kind") from error
        self._place = self._place.after(*entry)
        if entry.op in KILLING:
            self._retention.learn(self._boot(), entry.target, entry.seq)
        return in_order

    def _distrust(self, answer: StoreAnswer) -> None:
        """Retire a history whose entries differ from those applied here, or are incomplete."""
        applied = self._state.applied
        seen = f"{applied} was applied here, the store is at {answer.seq}"
        if answer.status == REGRESSED and applied <= answer.seq:
            seen = f"number {applied} was something else here than in the store, which is at {answer.seq}"
        self._alarm(f"the revocation store is {answer.status.lower()}: {seen}", retire=True)

    def _last_grant(self) -> int:
        lease = self._state.lease
        return 0 if lease is None else lease.sent

    def _alarm(self, detail: str, *, retire: bool) -> None:
        if self._state.refuses != "fenced":
            _log.error("%s: refusing everything: %s", self, detail)
        self.fence(detail, retire=retire)
