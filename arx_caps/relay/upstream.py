# SPDX-License-Identifier: Apache-2.0
"""Follow the store, or another relay, for a relay's hub.  SPEC 10.7.

It is a verifier's own follower, in its thread, with two differences: whatever it learns it also hands to the hub, and
what it says of itself is what the hub says of all who are behind it.  ``Passing`` is these; like the rules of every
follower it knows neither threads nor connections.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from arx_verifier.revocation.epoch import EpochTable, State
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import Following, Question
from arx_verifier.revocation.history import Place
from arx_verifier.revocation.relay_link import RelayLink
from arx_verifier.revocation.store_link import RESYNC, Answer, Crowd, Entry, Link

PROBES: Final = 20  # in a lease: what passes between two of them is taken off every lease below


class Granted(NamedTuple):
    """What the last answer that granted a lease said, and when its question had not left yet (boot clock, ns)."""

    at_ms: int
    lease_ms: int
    keep_ms: int
    sent: int


class Hearer(Protocol):
    """Who is told, in its own event loop."""

    def take_entry(self, entry: Entry, *, in_order: bool) -> None:
        """Take an entry that is new."""

    def take_grant(self, granted: Granted) -> None:
        """Take what a lease rests on."""

    def take_copy(self, place: Place) -> None:
        """Begin anew: the view was copied whole."""

    def take_fence(self) -> None:
        """There is no view to act on any more."""


class Passing(Following):
    """An epoch view that hands on what it learns, and stands for a crowd.

    Args:
        where: As the follower's below it takes them.
        hand: Calls one of the hearer's methods with facts, in the hearer's own time.
        hearer: Who is told.
        settings: As ``Following``'s.
    """

    def __init__(self, *where: Any, hand: Callable[..., None], hearer: Hearer, **settings: Any) -> None:
        super().__init__(*where, probes=PROBES, **settings)
        self._hand, self._hearer = hand, hearer
        self._wanted = False
        self._crowd: tuple[str, Crowd] = ("", Crowd(0, -1, ()))
        self._hurried = False

    @property
    def state(self) -> State:
        """The view; the follower writes it."""
        return self._state

    def stand_for(self, incarnation: str, crowd: Crowd, *, now: bool, hurry: bool) -> None:
        """Say from now on who is behind this relay.

        Args:
            incarnation: The history that they are in.
            crowd: Who they are.
            now: Tell it at once, not with the next probe that is due.
            hurry: Somebody among them waits for news.
        """
        self._crowd = (incarnation, crowd)
        self._hurried = hurry
        if now or hurry:
            self._wanted = True

    def crowd_in(self, incarnation: str) -> Crowd:
        """Return who is behind this relay; what they had applied in another history confirms nothing."""
        said, crowd = self._crowd
        return crowd if said == incarnation else crowd._replace(applied=-1, ahead=None)

    def next_at(self, *, hurry: bool = False) -> int:
        """As ``Following.next_at``; at once when the hub wants to say something."""
        return 0 if self._wanted and self._sent is None else super().next_at(hurry=hurry)

    def ask(self, *, hurry: bool = False) -> Question | None:
        """As ``Following.ask``; at once when the hub wants to say something."""
        if self._wanted and self._sent is None:
            self._wanted = False  # before the crowd is read: what is said meanwhile wants another probe
            self._due = 0
        return super().ask(hurry=hurry or self._hurried)

    def take_answer(self, answer: Answer, copy: Callable[[str], dict[str, int]]) -> None:
        """Act on it, and hand on what it granted."""
        before = self._last_grant()
        super().take_answer(answer, copy)
        state = self._state
        if state.refuses == "fenced" and state.lease is None:
            self._hand(self._hearer.take_fence)
        elif answer.status == RESYNC:
            self._hand(self._hearer.take_copy, self._place)
        elif state.lease is not None and state.lease.sent != before:
            self._hand(
                self._hearer.take_grant, Granted(answer.at_ms, answer.lease_ms, answer.keep_ms, state.lease.sent)
            )

    def _apply(self, entry: Entry) -> bool:
        new = entry.seq > self._state.applied
        in_order = super()._apply(entry)
        if new:
            self._hand(self._hand_entry, entry, in_order)
        return in_order

    def _hand_entry(self, entry: Entry, in_order: bool) -> None:
        self._hearer.take_entry(entry, in_order=in_order)


class Upstream(Passing, Follower):
    """A relay's follower.  Arguments as ``Follower``'s, and who hears it, in which loop."""

    def __init__(self, *where: Any, loop: asyncio.AbstractEventLoop, hearer: Hearer, **settings: Any) -> None:
        super().__init__(*where, hand=self._tell, hearer=hearer, **settings)
        self._loop = loop

    def stand_for(self, incarnation: str, crowd: Crowd, *, now: bool, hurry: bool) -> None:
        """As ``Passing.stand_for``; wakes the follower's thread."""
        super().stand_for(incarnation, crowd, now=now, hurry=hurry)
        if now or hurry:
            self._rouse()

    # The follower's thread.

    def _send(self, link: Link | RelayLink, question: Question) -> None:
        crowd = self.crowd_in(question.place.incarnation)
        link.probe(self.verifier_id, question.place, hurry=question.hurry, crowd=crowd)

    def _say_goodbye(self, link: Link | RelayLink) -> None:  # noqa: ARG002 - the follower calls it so
        # Without a goodbye the relay stays in the registry until the leases of those behind it are over.
        EpochTable.close(self)

    def _tell(self, what: Callable[..., None], *facts: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *facts)
