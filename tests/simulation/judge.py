# SPDX-License-Identifier: Apache-2.0
"""What must never be seen, whatever breaks: the theorem of SPEC 10, as a spectator with true time sees it.

The bound counts from when a kill *returned*, in real time, and a verifier's clock may be wrong by ``DRIFT``.  Where a
fault breaks the theorem's assumption that an acknowledged entry is kept or the history changes, its record is marked
lost, and binds only those who had applied it; and a token that was born among the lost entries knows no number that was
given again.  Every other kill after such a loss binds as ever.
"""

from collections.abc import Sequence
from typing import Any

from tests.simulation.verifiers import Machine, Token
from tests.simulation.world import DRIFT, MS, World

FOREIGN = "foreign"  # a history that no store ever had


class Record:
    """One acknowledged entry.

    Attributes:
        returned: When its maker got the outcome, real ns.
        confirmed: When its confirmation was complete, real ns.
        thawed: When the freeze was thawed in the store, real ns.
        number: Of all that were ever acknowledged.
        known_to: After a loss: the views that had applied it.  None while nothing was lost.
    """

    def __init__(self, incarnation: str, seq: int, op: str, target: str, number: int) -> None:
        self.incarnation, self.seq, self.op, self.target, self.number = incarnation, seq, op, target, number
        self.returned: int | None = None
        self.confirmed: int | None = None
        self.thawed: int | None = None
        self.known_to: list[Any] | None = None

    def __repr__(self) -> str:
        return f"{self.op} of {self.target} at {self.seq} in {self.incarnation}"


class Judge:
    """Holds every acceptance against every kill and freeze."""

    def __init__(self, world: World, lease_ms: int) -> None:
        self._world = world
        self._bound = int(lease_ms * MS / (1 - DRIFT)) + 1
        self._of: dict[str, list[Record]] = {}
        self.accepted = self.refused = 0
        self.worst = 0
        self.dead: list[str] = []  # what was killed, in order
        # Tokens born among entries that were lost, and how many records came before the loss.
        self._orphans: dict[Token, int] = {}
        # Each loss: its history, the last entry that was kept, the records before it, and the views with a lost entry.
        self._losses: list[tuple[str, int, int, list[Any]]] = []
        self._count = 0

    def executed(self, incarnation: str, seq: int, op: str, target: str) -> Record:
        """Note what the store has done."""
        self._count += 1
        record = Record(incarnation, seq, op, target, self._count)
        if op != "thaw":
            self.dead.append(target)
        records = self._of.setdefault(target, [])
        if op == "thaw":
            for other in records:
                other.thawed = other.thawed or self._world.now
        records.append(record)
        return record

    def alive(self, token: Token) -> bool:
        """Whether nothing was done to a token that any party knows of."""
        records = (record for target in token.targets for record in self._of.get(target, ()))
        return not any(record.seq > token.root[1] and record.op != "thaw" for record in records)

    def born(self, token: Token, following: Any) -> None:
        """Note a token that a mint has made from a view: an orphan too, if that view has entries that were lost."""
        # Until its next probe the mint does not know of the loss, and its lease still lasts.  SPEC 10.10.
        for incarnation, after, count, views in self._losses:
            if token.incarnation == incarnation and token.born > after and following in views:
                self._orphans.setdefault(token, count)

    def lost(self, incarnation: str, after: int, machines: list[Machine], tokens: Sequence[Token] = ()) -> None:
        """Note that the store went back to ``after`` without a new history, and which tokens there were."""
        for token in tokens:
            if token.incarnation == incarnation and token.born > after:
                self._orphans.setdefault(token, self._count)  # a second loss takes nothing of the first one back
        states = [(machine.following, machine.following._state) for machine in machines]
        views = [view for view, state in states if state.incarnation == incarnation and state.applied > after]
        self._losses.append((incarnation, after, self._count, views))
        for record in (record for records in self._of.values() for record in records):
            if record.incarnation == incarnation and record.seq > after and record.known_to is None:
                record.known_to = [
                    view for view, state in states if state.incarnation == incarnation and state.applied >= record.seq
                ]

    def rotated(self, old: str, new: str, freezes: dict[str, int]) -> list[Record]:
        """Record that the freezes of a history are in the next one; they bind once the rotation has returned."""
        return [self.executed(new, seq, "freeze", target) for target, seq in freezes.items()]

    def look(self, machine: Machine, token: Token) -> None:
        """Let a verifier decide, and hold an acceptance against all that is known."""
        began, following = self._world.now, machine.following
        left = dict(machine.left)
        refusal = machine.check(token)
        if refusal is not None:
            self.refused += 1
            return
        self.accepted += 1
        if following is not machine.following:
            return  # its process ended meanwhile
        now = self._world.now
        for incarnation in {token.incarnation, token.root[0]}:
            if incarnation == FOREIGN or left.get(incarnation, now + 1) <= began:
                self._world.blame(f"{machine.name} accepted a token of {incarnation}, another history")
        for target in token.targets:
            for record in self._of.get(target, ()):
                self._hold(record, machine, token, began, now)

    def _hold(self, record: Record, machine: Machine, token: Token, began: int, now: int) -> None:
        if record.returned is None or record.incarnation != token.incarnation or record.op == "thaw":
            return
        if record.known_to is not None and machine.following not in record.known_to:
            return
        reused = record.seq <= token.born and record.number > self._orphans.get(token, self._count)
        killed = "kill" in record.op and token.root[1] < record.seq and not reused
        frozen = "freeze" in record.op and record.thawed is None
        if not killed and not frozen:
            return
        late = now - record.returned
        self.worst = max(self.worst, late)
        # A thread held up in the middle of a decision may still end it: a confirmation binds what begins after it.
        if record.confirmed is not None and began >= record.confirmed:
            self._world.blame(f"{machine.name} accepted {token} after the {record} was confirmed")
        elif late >= self._bound:
            self._world.blame(f"{machine.name} accepted {token} {late / MS:.1f} ms after the {record} returned")
