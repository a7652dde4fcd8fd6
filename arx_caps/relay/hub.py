# SPDX-License-Identifier: Apache-2.0
"""Answer the followers of a relay, and report them upstream.  SPEC 10.7.

Everything here runs in one event loop and never blocks.  ``upstream`` delivers what the store answers, ``connection``
what the followers send.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from arx_caps.relay.upstream import Granted
from arx_verifier.revocation.epoch import EpochState, RegistryName, boot_clock
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace, chain_after
from arx_verifier.revocation.relay_link import Probe, Push, RelayAnswer, RelayPage
from arx_verifier.revocation.store_link import OK, REGRESSED, RESYNC, Crowd, EpochEntry, Late

KEEP: Final = 10_000  # entries that a follower may lack before it must copy the kills
PAGE: Final = 5_000  # rows in one page of a copy
LOOK_S: Final = 4e-6  # pause for each follower between two scans of all: eight times what a scan takes for each
COPY_NS: Final = 10_000_000_000  # how long the same copy is offered to followers
MS: Final = 1_000_000  # ns
NEWS: Final = Push("-", 0, "rotate", "realm")  # of no history: it changes nothing, and makes a follower probe at once


class Listener(Protocol):
    """A connection to a follower, and the copy that was offered to it."""

    copy: "Copy | None"

    def send(self, message: RelayAnswer | Push | RelayPage) -> None:
        """Send a message; drop a follower that reads too slowly."""

    def drop(self) -> None:
        """End the connection."""


class Copy(NamedTuple):
    """Kills and freezes as they were at a place or later."""

    seq: int
    chain: str
    made: int
    parts: dict[str, list[tuple[str, int]]]

    def page(self, part: str, cursor: int) -> RelayPage:
        """Return a page of a part, ``k`` or ``f``.

        Args:
            part: The part.
            cursor: Where the page begins; 0 first, then the cursor of the last page.

        Raises:
            KeyError: There is no such part.
        """
        rows, end = self.parts[part], cursor + PAGE
        return RelayPage(end if end < len(rows) else 0, dict(rows[cursor:end]))


class RelayFollower:
    """A follower of the relay: a verifier, or another relay with its crowd."""

    __slots__ = ("ahead", "asked", "crowd", "heard", "heard_ms", "incarnation", "listener", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.listener: Listener | None = None
        self.heard = 0  # last probe, boot clock, ns
        self.heard_ms = 0  # the same moment by the store's clock, ms, never too early
        self.incarnation = ""
        self.crowd = Crowd(1, -1, ())
        self.ahead: Probe | None = None  # the last probe, if it names a place that is not in this history
        self.asked: tuple[Probe, int] | None = None  # a probe that waits for the store's answer, and when it came

    def applied(self, incarnation: str) -> int:
        """Return the sequence of a history that all verifiers of this member have applied; -1 for another history."""
        return self.crowd.applied if self.incarnation == incarnation else -1


# Two rules keep SPEC's bounds.  An answer has the age of its knowledge when the question came, and the follower
# subtracts that from its lease.  The relay reports as applied what *all* its followers have applied; a silent follower
# is reported by name until every lease that it can hold has ended.
class Hub:
    """The relay's state, and its followers.

    Args:
        state: Returns the view that upstream keeps.
        stand_for: Receives the history, the crowd, whether to report at once, and whether a follower waits.
        later: Calls back after a number of seconds.
        boot: Clock in ns that never steps and counts sleep.

    Attributes:
        granted: The store's last answer that granted a lease; None without one.
        reported: The last report of the followers.
        members: The followers by name.
        listeners: The connections.
    """

    def __init__(
        self,
        state: Callable[[], EpochState],
        stand_for: Callable[[str, Crowd, bool, bool], None],
        later: Callable[[float, Callable[[], None]], object],
        boot: Callable[[], int] = boot_clock,
    ) -> None:
        self._state, self._stand_for, self._later, self._boot = state, stand_for, later, boot
        self.incarnation, self.seq = "", -1
        self.granted: Granted | None = None
        self._lease = 1_000 * MS  # of the last grant, ns: followers may still have it when there is no grant
        self.members: dict[str, RelayFollower] = {}
        self.listeners: set[Listener] = set()
        self._entries: deque[EpochEntry] = deque(maxlen=KEEP)  # up to seq, without a gap
        self._chains: deque[str] = deque([UNKNOWN], maxlen=KEEP + 1)  # before the first of them, and of each
        self._copy: Copy | None = None
        self.reported = Crowd(0, -1, ())
        self._settling = False

    # Called by upstream.

    def take_entry(self, entry: EpochEntry, in_order: bool) -> None:
        """Keep an entry for later probes, and push it to every follower.

        Args:
            entry: A new entry.
            in_order: Whether it continues the view without a gap.
        """
        if in_order and entry.incarnation == self.incarnation and entry.seq == self.seq + 1:
            self._entries.append(entry)
            self._chains.append(chain_after(self._chains[-1], entry.seq, entry.op, entry.target))
            self.seq = entry.seq
        self._push(Push(entry.incarnation, entry.seq, entry.op, entry.target))
        self.settle_soon()

    def take_grant(self, granted: Granted) -> None:
        """Answer the probes that wait.

        Args:
            granted: The store's answer that granted a lease.
        """
        before, self.granted = self.granted, granted
        self._lease = granted.lease_ms * MS
        if before is None or granted.sent - before.sent > self._lease // 4:
            self._push(NEWS)  # the followers' leases are about to end, or have ended
        for member in list(self.members.values()):
            if member.asked is not None and member.listener is not None:
                self._answer(member, *member.asked)
        self.settle_soon()

    def take_copy(self, place: HistoryPlace) -> None:
        """Begin anew at a place; a follower that lacks the skipped entries must copy the kills.

        Args:
            place: The place of the copied view.
        """
        other = place.incarnation != self.incarnation
        self.incarnation, self.seq, chain = place
        self._entries.clear()
        self._chains = deque([chain], maxlen=KEEP + 1)
        self._copy = None
        if other:
            self.granted = None
        self._push(NEWS)
        self.settle_soon()

    def take_fence(self) -> None:
        """Answer no probe any more: every lease below runs out."""
        self.granted = None
        for listener in list(self.listeners):
            listener.drop()

    # Called for followers.

    def take_probe(self, listener: Listener, probe: Probe) -> None:
        """Record the entries that a follower has applied, and answer.

        Args:
            listener: The follower's connection.
            probe: Its probe.
        """
        came = self._boot()
        member = self.members.get(probe.name)
        if member is None:
            member = self.members[probe.name] = RelayFollower(probe.name)
        new = member.listener is not listener or self._silent(member, came)
        if member.listener is not listener:
            if member.listener is not None:
                member.listener.drop()  # its old connection broke unnoticed, or two followers use one name
            member.listener = listener
        before = (member.incarnation, member.crowd)
        member.heard, member.incarnation = came, probe.incarnation if self._chain_at(probe) == probe.chain else ""
        if self.granted is not None:
            member.heard_ms = self.granted.at_ms + (came - self.granted.sent) // MS
        member.crowd = probe.crowd or Crowd(1, probe.applied, ())
        self._answer(member, probe, came)
        # Most probes change nothing, and a scan of all followers takes time if there are many.
        if new or member.asked is not None or before != (member.incarnation, member.crowd):
            self.settle_soon()

    def take_leave(self, listener: Listener) -> None:
        """Forget a follower that has given up its lease.

        Args:
            listener: Its connection.
        """
        for name in [member.name for member in self.members.values() if member.listener is listener]:
            del self.members[name]
        self.settle_soon()

    def take_end(self, listener: Listener) -> None:
        """Record the end of a connection; its follower may still have a lease.

        Args:
            listener: The connection.
        """
        self.listeners.discard(listener)
        for member in self.members.values():
            if member.listener is listener:
                member.listener = member.asked = None
        self.settle_soon()

    def _answer(self, member: RelayFollower, probe: Probe, came: int) -> None:
        granted, listener = self.granted, member.listener
        assert listener is not None
        member.asked = member.ahead = None
        if granted is None:
            listener.drop()
            return
        same, known = probe.incarnation == self.incarnation, self._chain_at(probe)
        if granted.sent < came and (probe.hurry or (same and probe.applied > self.seq)):
            member.asked = (probe, came)  # upstream asks the store first; see _settle
            return
        low = self.seq - len(self._entries)
        seq, chain, status, entries = self.seq, self._chains[-1], OK, []
        if same and probe.applied > self.seq:
            status = REGRESSED
        elif UNKNOWN in (known, probe.chain):
            copy = self._copied(low)
            if copy is None:
                listener.drop()  # upstream is between two histories
                return
            seq, chain, status, listener.copy = copy.seq, copy.chain, RESYNC, copy
        elif known != probe.chain:
            status = REGRESSED
        else:
            first = probe.applied - low
            wanted = range(first, min(first + probe.limit, len(self._entries)))
            entries = [(e.seq, e.op, e.target) for e in (self._entries[index] for index in wanted)]
        member.ahead = probe if status == REGRESSED else None
        # The age at the question's arrival.  Its sender counts from its departure, which was earlier, so the sum covers
        # the whole time.
        age = max(0, came - granted.sent)
        facts = (self.incarnation, seq, granted.at_ms, granted.lease_ms, status, granted.keep_ms, chain)
        listener.send(RelayAnswer(*facts, entries, len(self.members), age))

    def _chain_at(self, probe: Probe) -> str:
        """Return the chain hash at a follower's place, or ``UNKNOWN`` if the relay does not have it."""
        index = probe.applied - self.seq + len(self._entries)
        return (
            self._chains[index] if probe.incarnation == self.incarnation and 0 <= index < len(self._chains) else UNKNOWN
        )

    def _copied(self, low: int) -> Copy | None:
        now = self._boot()
        if self._copy is None or self._copy.seq < low or now - self._copy.made > COPY_NS:
            state = self._state()
            if state.incarnation != self.incarnation:
                return None
            # The other thread goes on meanwhile, but a dict is copied in one step; newer entries follow separately.
            kills, freezes = state.kills.copy(), state.freezes.copy()
            self._copy = Copy(self.seq, self._chains[-1], now, {"k": list(kills.items()), "f": list(freezes.items())})
        return self._copy

    # Reports of the followers.

    def tick(self) -> None:
        """Notice silent followers, and drop a copy that is too old."""
        if self._copy is not None and self._boot() - self._copy.made > COPY_NS:
            self._copy = None
        self.settle_soon()

    def settle_soon(self) -> None:
        """Schedule one scan of all followers for everything that happens within a moment."""
        if not self._settling:
            self._settling = True
            self._later(len(self.members) * LOOK_S, self._settle)

    def _settle(self) -> None:
        self._settling = False
        crowd = self.crowd()
        asked = any(member.asked is not None for member in self.members.values())
        changed = crowd != self.reported
        self.reported = crowd
        self._stand_for(self.incarnation, crowd, changed, asked)

    def crowd(self) -> Crowd:
        """Return the report of all followers, and forget those whose leases have long ended."""
        now, lease = self._boot(), self._lease
        verifiers, applied, late, ahead = 0, self.seq, [], []
        for member in list(self.members.values()):
            # Kept so long that a report which waits for the end of a lease still finds it, whenever the kill came.
            if now - member.heard > 5 * lease // 2:
                del self.members[member.name]
                continue
            ahead += self._ahead_of(member)
            if RegistryName.read(member.name).until_ms is not None:
                # Reported by its name, as it never confirms; at a full second, so that not each probe is a new report.
                heard_ms = -(-member.heard_ms // 1000) * 1000
                late.append(Late(member.name, heard_ms, member.applied(self.incarnation), 1))
            elif self._silent(member, now):
                applies = member.applied(self.incarnation)
                late.append(Late(member.name, member.heard_ms, applies, member.crowd.verifiers))
                late.extend(member.crowd.late)
            else:
                verifiers += member.crowd.verifiers
                applied = min(applied, member.applied(self.incarnation))
                late.extend(member.crowd.late)
        return Crowd(verifiers, applied, tuple(late), max(ahead, default=None))

    def _ahead_of(self, member: RelayFollower) -> list[tuple[int, str]]:
        """Return the places that a member names, for itself or its crowd, and that are not in this history."""
        own = member.ahead
        places = [(own.applied, own.chain)] if own is not None and own.incarnation == self.incarnation else []
        behind = member.crowd.ahead if member.incarnation == self.incarnation else None
        return places if behind is None else [*places, behind]

    def _silent(self, member: RelayFollower, now: int) -> bool:
        return member.listener is None or now - member.heard > self._lease // 2

    def _push(self, push: Push) -> None:
        for listener in list(self.listeners):
            listener.send(push)
