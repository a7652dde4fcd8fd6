# SPDX-License-Identifier: Apache-2.0
"""Look at log and verifiers, and notify once when something goes wrong and once when it is over. CONTROL 7.4."""

import time
from collections.abc import Callable
from typing import Final

from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.notices import LOG_HALTED, LOG_RESUMED, VERIFIERS_BACK, VERIFIERS_LATE
from arx_caps.revocation import RevocationStore
from arx_verifier.errors import StoreError

LATE_MS: Final = 10_000  # without a probe: ten default leases, so that a short pause raises no alarm
LATE_LEASES: Final = 2  # and this many of the realm's own leases
EVERY_S: Final = 2.0  # between two looks at the verifiers
LOG: Final = "log"
_VERIFIER: Final = "verifier:"
_ID_CHARS: Final = 128  # of a verifier's id in an alarm's name


class Alarms:
    """Looks at log and verifiers of a realm; the database has what was notified.

    Args:
        db: The mint's database.
        store: The revocation store, which knows the verifiers.
        log: The audit log.
    """

    def __init__(self, db: MintDatabase, store: RevocationStore, log: AuditLog) -> None:
        self._db, self._store, self._log = db, store, log
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
            ages = {_VERIFIER + seen.id[:_ID_CHARS]: seen.age_ms for seen in self._store.verifiers()}
        except StoreError:  # which the mint's keeper reports
            self._answers_since = None
            return
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


def _event(kind: str) -> Callable[[list[str]], Event]:
    return lambda names: Event.of(kind, "mint", verifiers=[name.removeprefix(_VERIFIER) for name in names])
