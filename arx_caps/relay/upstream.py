# SPDX-License-Identifier: Apache-2.0
"""Follow the store, or another relay, for a relay's hub.  SPEC 10.7.

It is a verifier's follower with two differences: it also reports to the hub, and its probes report the hub's followers.
``Passing`` has the rules, without threads and connections; ``Upstream`` runs them in the follower's thread.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from arx_verifier.revocation.epoch import EpochState, EpochTable
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import Following, StoreQuestion
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.relay_link import RelayLink
from arx_verifier.revocation.store_link import RESYNC, Crowd, EpochEntry, Link, StoreAnswer

PROBES: Final = 20  # in a lease; the time between two probes is subtracted from every lease below


class Granted(NamedTuple):
    """Facts of the last answer that granted a lease, and a moment before its question left (boot clock, ns)."""

    at_ms: int
    lease_ms: int
    keep_ms: int
    sent: int


class Hearer(Protocol):
    """Receives what the follower learns, in its own event loop."""

    def take_entry(self, entry: EpochEntry, in_order: bool) -> None:
        """Take a new entry."""

    def take_grant(self, granted: Granted) -> None:
        """Take the facts of an answer that granted a lease."""

    def take_copy(self, place: HistoryPlace) -> None:
        """Begin anew: the whole view was copied."""

    def take_fence(self) -> None:
        """Stop: the follower has no valid view any more."""


class Passing(Following):
    """An epoch view that passes on what it learns, and reports a crowd.

    Args:
        where: The arguments of the follower below.
        hand: Calls one of the hearer's methods with facts, in the hearer's event loop.
        hearer: Receives what the view learns.
        settings: As ``Following``'s.
    """

    def __init__(self, *where: Any, hand: Callable[..., None], hearer: Hearer, **settings: Any) -> None:
        super().__init__(*where, probes=PROBES, **settings)
        self._hand, self._hearer = hand, hearer
        self._wanted = False
        self._crowd: tuple[str, Crowd] = ("", Crowd(0, -1, ()))
        self._hurried = False

    @property
    def state(self) -> EpochState:
        """The view, which the follower writes."""
        return self._state

    def stand_for(self, incarnation: str, crowd: Crowd, *, now: bool, hurry: bool) -> None:
        """Report a crowd from now on.

        Args:
            incarnation: The history that its members follow.
            crowd: The crowd.
            now: Whether to probe at once, not when the next probe is due.
            hurry: Whether one of its members waits for the answer.
        """
        self._crowd = (incarnation, crowd)
        self._hurried = hurry
        if now or hurry:
            self._wanted = True

    def crowd_in(self, incarnation: str) -> Crowd:
        """Return the crowd for a history; in another history than its own it has applied nothing."""
        followed, crowd = self._crowd
        return crowd if followed == incarnation else crowd._replace(applied=-1, ahead=None)

    def next_at(self, *, hurry: bool = False) -> int:
        """As ``Following.next_at``; 0 when the hub wants a probe."""
        return 0 if self._wanted and self._sent is None else super().next_at(hurry=hurry)

    def ask(self, *, hurry: bool = False) -> StoreQuestion | None:
        """As ``Following.ask``; at once when the hub wants a probe."""
        if self._wanted and self._sent is None:
            self._wanted = False  # reset before the crowd is read: a change meanwhile requests another probe
            self._due = 0
        return super().ask(hurry=hurry or self._hurried)

    def take_answer(self, answer: StoreAnswer, copy: Callable[[str], dict[str, int]]) -> None:
        """As ``Following.take_answer``; also passes on what was granted."""
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

    def _apply(self, entry: EpochEntry) -> bool:
        new = entry.seq > self._state.applied
        in_order = super()._apply(entry)
        if new:
            self._hand(self._hearer.take_entry, entry, in_order)
        return in_order


class Upstream(Passing, Follower):
    """A relay's follower: the arguments of ``Follower``, the hearer, and the hearer's event loop."""

    def __init__(self, *where: Any, loop: asyncio.AbstractEventLoop, hearer: Hearer, **settings: Any) -> None:
        super().__init__(*where, hand=self._call_hearer, hearer=hearer, **settings)
        self._loop = loop

    def stand_for(self, incarnation: str, crowd: Crowd, *, now: bool, hurry: bool) -> None:
        """As ``Passing.stand_for``; wakes the follower's thread."""
        super().stand_for(incarnation, crowd, now=now, hurry=hurry)
        if now or hurry:
            self._rouse()

    # The follower's thread.

    def _send(self, link: Link | RelayLink, question: StoreQuestion) -> None:
        crowd = self.crowd_in(question.place.incarnation)
        link.probe(self.verifier_id, question.place, hurry=question.hurry, crowd=crowd)

    def _say_goodbye(self, link: Link | RelayLink) -> None:  # noqa: ARG002 - the follower calls it so
        # No goodbye: the relay must stay in the registry until the leases of its followers have ended.
        EpochTable.close(self)

    def _call_hearer(self, what: Callable[..., None], *facts: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *facts)
