# SPDX-License-Identifier: Apache-2.0
"""A relay's hub with a clock that a test moves, and peers behind it."""

import pytest

from arx_caps.relay.hub import Copy, Hub
from arx_caps.relay.upstream import Granted
from arx_verifier.revocation.epoch import EpochState
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace
from arx_verifier.revocation.relay_link import Probe, Push, RelayAnswer, RelayPage
from arx_verifier.revocation.store_link import Crowd, EpochEntry

INCARNATION, MS, L_MS = "I" * 22, 1_000_000, 1_000


BEGAN, OTHER = HistoryPlace(INCARNATION, 5, "c" * 40), "d" * 40
START = 10_000 * MS


class HubHarness:
    """A hub, a clock that a test moves, and the messages that the hub sent upstream."""

    def __init__(self) -> None:
        self.now = START
        self.state = EpochState(INCARNATION, {}, {}, 5)
        self.places = [HistoryPlace("", number, UNKNOWN) for number in range(5)] + [BEGAN]
        self.crowds: list[tuple[Crowd, bool, bool]] = []
        self.hub = Hub(lambda: self.state, self.stand_for, lambda _, call: call(), lambda: self.now)
        self.hub.take_copy(BEGAN)
        self.grant()

    def stand_for(self, incarnation: str, crowd: Crowd, now: bool, hurry: bool) -> None:
        self.crowds.append((crowd, now, hurry))

    def grant(self) -> None:
        """Let upstream have asked now, and been answered."""
        self.hub.take_grant(Granted(1_800_000_000_000 + self.now // MS, L_MS, 3_600_000, self.now))

    def entry(self, seq: int) -> None:
        """Let upstream learn of an entry."""
        self.state.applied = seq
        self.places.append(self.places[-1].after(INCARNATION, seq, "kill", "realm"))
        self.hub.take_entry(EpochEntry(INCARNATION, seq, "kill", "realm"), in_order=True)

    def wait(self, ms: float) -> None:
        """Let time pass."""
        self.now += int(ms * MS)
        self.hub.tick()

    @property
    def crowd(self) -> Crowd:
        """The last message about the peers behind it."""
        return self.crowds[-1][0]


class Peer:
    """A verifier or another relay behind the hub."""

    def __init__(self, harness: HubHarness, name: str = "v") -> None:
        self.harness, self.name = harness, name
        self.got: list[RelayAnswer | Push | RelayPage] = []
        self.copy: Copy | None = None
        self.dropped = False
        harness.hub.listeners.add(self)

    def send(self, message: RelayAnswer | Push | RelayPage) -> None:
        self.got.append(message)

    def drop(self) -> None:
        self.dropped = True
        self.harness.hub.take_end(self)

    def probe(
        self,
        applied: int,
        *,
        incarnation: str = INCARNATION,
        chain: str | None = None,
        hurry: bool = False,
        crowd: Crowd | None = None,
    ) -> RelayAnswer | None:
        """Ask, by default as one who came by the same way; the answer, if it came at once."""
        before, places = len(self.got), self.harness.places
        if chain is None:
            chain = places[applied].chain if applied < len(places) else OTHER
        self.harness.hub.take_probe(self, Probe(self.name, incarnation, applied, chain, 1_000, hurry, crowd))
        values = [message for message in self.got[before:] if isinstance(message, RelayAnswer)]
        return values[0] if values else None


@pytest.fixture
def harness() -> HubHarness:
    return HubHarness()
