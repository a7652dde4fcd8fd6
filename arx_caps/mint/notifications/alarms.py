# SPDX-License-Identifier: Apache-2.0
"""Look at log and verifiers, and notify once when something goes wrong and once when it is over. CONTROL 7.4."""

# What is wrong is read from databases that the mints share, and what was notified is in one of them: any mint may look,
# and a mint that was down finds what happened meanwhile.

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from arx_caps.audit.ingest.entries import DISPUTED, PRUNED_KIND, RECOVERED, EventRecord
from arx_caps.audit.integrity.erasures import ERASED_KIND
from arx_caps.audit.integrity.retention import index_at
from arx_caps.audit.query.log_events import log_events
from arx_caps.audit.query.top_names import names_above
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.notices import (
    LOG_HALTED,
    LOG_RESUMED,
    REFUSALS_HIGH,
    REFUSALS_NORMAL,
    VERIFIERS_BACK,
    VERIFIERS_LATE,
    WATCH_ENDS,
)
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import VerifierSeen
from arx_caps.settings.limits import DEFAULT_LIMITS
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError

LATE_MS: Final = 10_000  # without a probe: ten default leases, so that a short pause raises no alarm
LATE_LEASES: Final = 2  # and this many of the realm's own leases
MINUTE_MS: Final = 60_000
WATCH_MS: Final = 3 * 24 * 60 * 60_000  # before the end of a watch
EVERY_S: Final = 2.0  # between two looks at the verifiers
RECORDS_S: Final = 5.0  # between two looks at the records of the log
EPISODE_MS: Final = 5 * 60_000  # without a minute at the rate, after which many refusals have ended
MAX_EPISODES: Final = 256  # agents at once
BACK_MS: Final = 24 * 3_600_000  # how far a mint that starts looks back for records
LOG: Final = "log"
_REFUSALS: Final = "refusals:"
_WATCH: Final = "watch:"
_VERIFIER: Final = "verifier:"
_ID_CHARS: Final = 128  # of a verifier's id in an alarm's name


class Alarms:
    """Looks at log and verifiers of a realm; the database has what was notified.

    Args:
        db: The mint's database.
        store: The revocation store, which knows the verifiers.
        log: The audit log.
        refusal_rate: The refused calls of an agent in a minute that are notified; 0 for none.
    """

    def __init__(
        self, db: MintDatabase, store: RevocationStore, log: AuditLog, refusal_rate: int = DEFAULT_LIMITS.refusal_rate
    ) -> None:
        self._db, self._store, self._log, self._refusal_rate = db, store, log, refusal_rate
        self._records_due = 0.0
        self._read: int | None = None  # the records of the log that were looked at
        self._log_known = False
        self._due = 0.0
        self._answers_since: float | None = None

    def look(self) -> None:
        """Look, and record what has changed.

        Raises:
            StoreError: The database did not answer.
        """
        self._look_at_log()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S
            self._look_at_verifiers()
        if time.monotonic() >= self._records_due:
            self._records_due = time.monotonic() + RECORDS_S
            self._look_at_refusals()
            self._look_at_records()

    def _look_at_log(self) -> None:
        why = self._log.publisher.halted
        if why is not None:
            # At each look: another mint, whose log is not halted, may have ended the alarm at its start.
            if LOG not in self._db.notifications.alarms():
                self._db.notifications.raise_alarms((LOG,), lambda _: Event.of(LOG_HALTED, "mint", why=why))
        elif not self._log_known:  # a halted log is halted until its mint starts anew
            self._db.notifications.end_alarms((LOG,), lambda _: Event.of(LOG_RESUMED, "mint"))
        self._log_known = True

    def _look_at_verifiers(self) -> None:
        try:
            late_ms = max(LATE_MS, LATE_LEASES * self._store.header().lease_ms)
            verifiers = self._store.verifiers()
        except StoreError:  # which the mint's keeper reports
            self._answers_since = None
            return
        ages = {_VERIFIER + seen.id[:_ID_CHARS]: seen.age_ms for seen in verifiers}
        self._look_at_watches(verifiers)
        now = time.monotonic()
        if self._answers_since is None:
            self._answers_since = now
        # After an outage of the store every verifier seems late, until each has probed again.
        if now - self._answers_since < late_ms / 1000:
            return
        raised = {name for name in self._db.notifications.alarms() if name.startswith(_VERIFIER)}
        late = {name for name, age_ms in ages.items() if age_ms >= late_ms}
        if late - raised:
            self._db.notifications.raise_alarms(late - raised, _event(VERIFIERS_LATE))
        if back := raised & ages.keys() - late:
            self._db.notifications.end_alarms(back, _event(VERIFIERS_BACK))
        if forgotten := raised - ages.keys():  # by the store after ten minutes: they have ended
            self._db.notifications.end_alarms(forgotten)

    def _look_at_watches(self, verifiers: Sequence[VerifierSeen]) -> None:
        """Notify three days before calls are refused that go on today, once for each watch of a process."""
        before = now_ms() + WATCH_MS
        ending = {
            f"{_WATCH}{seen.watches_until}:{seen.id[:_ID_CHARS]}"
            for seen in verifiers
            if seen.watches_until is not None and seen.watches_until <= before
        }
        raised = {name for name in self._db.notifications.alarms() if name.startswith(_WATCH)}

        def event(names: list[str]) -> Event:
            return Event.of(WATCH_ENDS, "mint", verifiers=[name.split(":", 2)[2] for name in names])

        if ending - raised:
            self._db.notifications.raise_alarms(ending - raised, event)
        if over := {name for name in raised if int(name.split(":", 2)[1]) < now_ms()}:
            self._db.notifications.end_alarms(over)

    def _look_at_refusals(self) -> None:
        now, above = now_ms(), set[str]()
        if self._refusal_rate:
            with self._log.store.reading() as c:
                time_ms = {"since_ms": now - EPISODE_MS, "until_ms": now + MINUTE_MS}
                names = names_above(c, "agent", denied=self._refusal_rate, limit=MAX_EPISODES, **time_ms)
            above = {_REFUSALS + name[:_ID_CHARS] for name in names}
        raised = {name for name in self._db.notifications.alarms() if name.startswith(_REFUSALS)}

        def event(kind: str) -> Callable[[list[str]], Event]:
            rate = self._refusal_rate
            return lambda names: Event.of(
                kind, "mint", agents=[name.removeprefix(_REFUSALS) for name in names], rate=rate
            )

        if above - raised:
            self._db.notifications.raise_alarms(above - raised, event(REFUSALS_HIGH))
        if raised - above:
            self._db.notifications.end_alarms(raised - above, event(REFUSALS_NORMAL))

    def _look_at_records(self) -> None:
        """Notify of the log's own events: no transaction of the mint's database has recorded them."""
        store = self._log.store
        end = store.size()
        start = index_at(store, now_ms() - BACK_MS) if self._read is None else min(self._read, end)
        with store.reading() as c:
            found = log_events(c, _FACTS.keys(), start, end)
        for kind, facts in _FACTS.items():
            events = {sha256(leaf).hexdigest(): event for leaf, event in found if event.kind == kind}
            if events:
                by = next(iter(events.values())).by
                self._db.notifications.notify_of_records(kind, by, events, facts)
        self._read = end


def _disputed(events: list[EventRecord]) -> dict[str, Any]:
    runs = [f"{event.named['verifier']}, run {event.named['boot']}" for event in events]
    return {"verifiers": [run[:_ID_CHARS] for run in runs]}


def _range(events: list[EventRecord]) -> dict[str, Any]:
    return {
        "first": min(event.named["first"] for event in events),
        "last": max(event.named["last"] for event in events),
    }


_FACTS: Final[Mapping[str, Callable[[list[EventRecord]], dict[str, Any]]]] = {
    DISPUTED: _disputed,
    PRUNED_KIND: _range,
    ERASED_KIND: lambda events: {"records": sum(event.named["records"] for event in events)},
    RECOVERED: _range,
}


def _event(kind: str) -> Callable[[list[str]], Event]:
    return lambda names: Event.of(kind, "mint", verifiers=[name.removeprefix(_VERIFIER) for name in names])
