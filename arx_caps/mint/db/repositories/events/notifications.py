# SPDX-License-Identifier: Apache-2.0
"""Notifications that wait or have failed, and the alarms that were notified. CONTROL 7.

``arx_caps.mint.db.notices`` queues them.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import FAILED, NOTICE_ROWS, WAITING, new_notice, queue_notices
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import ALARMS, NOTIFICATIONS, WEBHOOKS, NoticeRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

NOTIFICATIONS_ORDER: Final = Order((NOTIFICATIONS.c.at_ms, NOTIFICATIONS.c.id), tuple[Time, Text], newest_first=True)
RECORD: Final = "record:"  # begins the name of a record of the log that was notified
KEPT_RECORDS_MS: Final = 2 * 24 * 3_600_000  # longer than a mint looks back
KEPT_MS: Final = 30 * 24 * 3_600_000  # how long a failed one can be sent again
_N: Final = NOTIFICATIONS.c
_ITS: Final = _N.id == bindparam("which")
_ARE_DUE: Final = select(_N.webhook).where(_N.status == WAITING, _N.next_at <= bindparam("now")).distinct()
_DUE: Final = (
    NOTICE_ROWS.select()
    .where(_N.webhook == bindparam("whose"), _N.status == WAITING, _N.next_at <= bindparam("now"))
    .order_by(_N.next_at, _N.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
# A sender whose claim is over must not change what another one has claimed since.
_CLAIMED: Final = (_ITS, _N.status == WAITING, _N.tries == bindparam("tried"))
_CHANGE: Final = update(NOTIFICATIONS)
_DELIVERED: Final = delete(NOTIFICATIONS).where(_ITS)
_RECEIVER: Final = update(WEBHOOKS).where(WEBHOOKS.c.id == bindparam("whose"))
_TIDY: Final = delete(NOTIFICATIONS).where(_N.status == FAILED, _N.failed_at < bindparam("before"))
_COUNTS: Final = select(_N.status, func.count()).group_by(_N.status)
_ALARMS: Final = select(ALARMS.c.name)
_ADD_ALARM: Final = CompiledStatement(insert(ALARMS))
_TIDY_RECORDS: Final = delete(ALARMS).where(ALARMS.c.name.like(f"{RECORD}%"), ALARMS.c.at_ms < bindparam("before"))
_END_ALARM: Final = delete(ALARMS).where(ALARMS.c.name == bindparam("which"))


T = TypeVar("T")
Facts: TypeAlias = Mapping[str, Any]


class NotificationRepository(StructRepository[NoticeRow], reader=NOTICE_ROWS, key=NOTIFICATIONS.c.id):
    """The notifications of all receivers."""

    def add(self, webhook: str, kind: str, facts: Mapping[str, Any]) -> str:
        """Queue a notification for one receiver, and return its id.

        Args:
            webhook: The receiver's id.
            kind: Its kind.
            facts: What is sent.
        """
        row = new_notice(webhook, kind, now_ms(), facts)
        self._database.change(insert(NOTIFICATIONS), NOTICE_ROWS.values(row))
        return row.id

    def due(self) -> set[str]:
        """Return the ids of the receivers for which a notification is due."""
        return set(self._database.column(_ARE_DUE, now=now_ms()))

    def claim(self, webhook: str, claim_ms: int) -> NoticeRow | None:
        """Return the next notification that is due for a receiver; no other mint gets it meanwhile.

        Args:
            webhook: The receiver's id.
            claim_ms: How long no other mint gets it, ms.

        Returns:
            Its row, with this attempt counted in ``tries``; None if none is due.
        """
        now = now_ms()
        with self._database.write() as c:
            found = c.execute(_DUE, {"whose": webhook, "now": now}).first()
            if found is None:
                return None
            row = NOTICE_ROWS.read(found)
            # The attempt is counted before it is made: one that kills its mint would otherwise be made for ever.
            changes = {"tries": row.tries + 1, "next_at": now + claim_ms}
            c.execute(_CHANGE.where(_ITS), {"which": row.id, **changes})
            return msgspec.structs.replace(row, **changes)

    def delivered(self, row: NoticeRow) -> None:
        """Delete a notification that its receiver has taken."""
        with self._database.write() as c:
            c.execute(_DELIVERED, {"which": row.id})
            c.execute(_RECEIVER, {"whose": row.webhook, "delivered_at": now_ms(), "error": None})

    def failed(self, row: NoticeRow, error: str, next_at: int | None) -> None:
        """Record that an attempt failed.

        Args:
            row: The row that ``claim`` returned.
            error: Why, without a secret.
            next_at: When the next attempt is due, in ms since the Unix epoch; None if there is none.
        """
        now = now_ms()
        changes: dict[str, Any] = {"error": error}
        changes |= {"status": FAILED, "failed_at": now} if next_at is None else {"next_at": next_at}
        with self._database.write() as c:
            c.execute(_CHANGE.where(*_CLAIMED), {"which": row.id, "tried": row.tries, **changes})
            c.execute(_RECEIVER, {"whose": row.webhook, "failed_at": now, "error": error})

    def page(self, *, status: str | None = None, webhook: str | None = None, **page: Any) -> list[NoticeRow]:
        """Return notifications that were not delivered, the newest first.

        Args:
            status: ``waiting`` or ``failed``; None for both.
            webhook: A receiver's id; None for all.
            page: ``after``: a page's ``next``, and ``limit``.
        """
        statement = NOTICE_ROWS.select()
        for column, value in ((_N.status, status), (_N.webhook, webhook)):
            statement = statement if value is None else statement.where(column == value)
        return self._listed(statement, NOTIFICATIONS_ORDER, page.get("after"), page.get("limit", PAGE))

    def counts(self) -> dict[str, int]:
        """Return how many notifications wait, and how many have failed and are kept."""
        with self._database.read() as c:
            return {WAITING: 0, FAILED: 0} | {str(status): int(count) for status, count in c.execute(_COUNTS)}

    def resend(self, notification: str, what: Event) -> NoticeRow:
        """Make a notification due now, with all attempts anew.

        Args:
            notification: Its id.
            what: The event.

        Returns:
            Its row.

        Raises:
            GrantError: ``not_found``: it was delivered, or its receiver was removed; ``conflict``: its receiver is
                gone.
        """
        with self._database.write(what) as c:
            row = NOTICE_ROWS.first(c, self._find, {"which": notification})
            if row is None:
                raise GrantError("no such notification waits or has failed", code="not_found")
            its = select(WEBHOOKS.c.ended_at).where(WEBHOOKS.c.id == row.webhook)
            if c.execute(its).scalar_one() is not None:
                raise GrantError(f"its receiver {row.webhook} is gone: add it again", code="conflict")
            changes = {"status": WAITING, "tries": 0, "next_at": now_ms(), "failed_at": None}
            c.execute(_CHANGE.where(_ITS), {"which": notification, **changes})
            return msgspec.structs.replace(row, **changes)

    def tidy(self) -> None:
        """Delete notifications that failed long ago."""
        with self._database.write() as c:
            c.execute(_TIDY, {"before": now_ms() - KEPT_MS})
            c.execute(_TIDY_RECORDS, {"before": now_ms() - KEPT_RECORDS_MS})

    def alarms(self) -> set[str]:
        """Return the names of the alarms that are raised."""
        return set(self._database.column(_ALARMS))

    def raise_alarms(self, names: Collection[str], make: Callable[[list[str]], Event]) -> None:
        """Raise alarms, and record one event of those that are new: of many looks, one notifies.

        Args:
            names: What is wrong.
            make: Returns the event, by the names of new alarms.
        """
        with self._database.write() as c:
            new = [name for name in sorted(names) if _add_alarm(c, name)]
            if new:
                self._database.record_in(c, make(new))

    def notify_of_records(self, kind: str, by: str, facts_of: Mapping[str, T], add: Callable[[list[T]], Facts]) -> None:
        """Queue one notification of the records that were not notified, by any mint.

        Args:
            kind: Their kind.
            by: Their actor.
            facts_of: What each is about, by a name of it that no other one has.
            add: Returns the facts of the notification, of the records that are new.
        """
        with self._database.write() as c:
            new = [name for name in sorted(facts_of) if _add_alarm(c, RECORD + name)]
            if new:
                queue_notices(c, kind, by, now_ms(), add([facts_of[name] for name in new]))

    def end_alarms(self, names: Collection[str], make: Callable[[list[str]], Event] | None = None) -> None:
        """End alarms, and record one event of those that were raised.

        Args:
            names: Their names.
            make: Returns the event, by the names of ended alarms; None for no event.
        """
        with self._database.write() as c:
            ended = [name for name in sorted(names) if c.execute(_END_ALARM, {"which": name}).rowcount]
            if ended and make is not None:
                self._database.record_in(c, make(ended))


def _add_alarm(c: Connection, name: str) -> bool:
    """Add an alarm, and return whether it is new."""
    if c.execute(_ALARMS.where(ALARMS.c.name == name)).first() is not None:
        return False
    return insert_new(c, _ADD_ALARM, {"name": name, "at_ms": now_ms()})
