# SPDX-License-Identifier: Apache-2.0
"""Receivers of notifications. CONTROL 7."""

from typing import Final

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import FAILED, WAITING
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.tables import NOTIFICATIONS, WEBHOOKS, WebhookRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

WEBHOOK_ROWS: Final = RowReader(WebhookRow, WEBHOOKS)
MAX_WEBHOOKS: Final = 16  # each has a thread of its own at every mint, so that none waits for another
REMOVED: Final = "removed"  # by an operator
GONE: Final = "gone"  # it answered 410
_ADDING: Final = 0x61727C  # of an advisory lock; no other part of ARx uses this number
_T: Final = WEBHOOKS.c
_ITS: Final = _T.id == bindparam("which")
_LIVE: Final = select(func.count()).select_from(WEBHOOKS).where(_T.ended_at.is_(None))
_ADD: Final = insert(WEBHOOKS)
_END: Final = update(WEBHOOKS).where(_ITS, _T.ended_at.is_(None))
# An ended one is shown while notifications of it have failed.
_LISTED: Final = (
    WEBHOOK_ROWS.select()
    .where(_T.ended_at.is_(None) | (_T.ended_why == GONE))
    .order_by(_T.created_at, _T.id)
    .limit(2 * MAX_WEBHOOKS)
)
_BEATING: Final = select(_T.id).where(
    _T.ended_at.is_(None),
    # A mint whose clock was wrong may have left a time that is far ahead.
    or_(
        and_(_T.heartbeat_ms.is_not(None), _T.beat_at.is_(None)),
        _T.beat_at + _T.heartbeat_ms <= bindparam("now"),
        _T.beat_at - 2 * _T.heartbeat_ms > bindparam("now"),
    ),
)
# Of two mints that have read the same time, one changes it.
_CLAIM_BEAT: Final = update(WEBHOOKS).where(
    _ITS, _T.ended_at.is_(None), func.coalesce(_T.beat_at, 0) == bindparam("seen")
)
_COUNTS: Final = select(NOTIFICATIONS.c.webhook, NOTIFICATIONS.c.status, func.count()).group_by(
    NOTIFICATIONS.c.webhook, NOTIFICATIONS.c.status
)
_FORGET: Final = delete(NOTIFICATIONS).where(NOTIFICATIONS.c.webhook == bindparam("whose"))


class WebhookRepository(StructRepository[WebhookRow], reader=WEBHOOK_ROWS, key=WEBHOOKS.c.id):
    """The receivers. A removed one keeps its row: a notification that is queued at the same time refers to it."""

    def add(self, row: WebhookRow, what: Event) -> None:
        """Store a receiver.

        Args:
            row: The row.
            what: The event.

        Raises:
            GrantError: ``conflict``: there are as many as there may be.
        """
        with self._database.alone(_ADDING), self._database.write(what) as c:
            if c.execute(_LIVE).scalar_one() >= MAX_WEBHOOKS:
                raise GrantError(f"the realm has {MAX_WEBHOOKS} webhooks: remove one first", code="conflict")
            c.execute(_ADD, WEBHOOK_ROWS.values(row))

    def list(self) -> list[WebhookRow]:
        """Return the receivers that no operator has removed, the oldest first."""
        return self._all(_LISTED)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of notifications by receiver and status, ``waiting`` or ``failed``; without zeros."""
        with self._database.read() as c:
            return {(webhook, status): count for webhook, status, count in c.execute(_COUNTS)}

    def beats_due(self) -> set[str]:
        """Return the ids of the receivers for which a heartbeat is due."""
        return set(self._database.column(_BEATING, now=now_ms()))

    def claim_beat(self, row: WebhookRow) -> bool:
        """Return whether this mint may send the heartbeat that is due; of several mints, one may.

        Args:
            row: The receiver's row, as ``find`` returned it.
        """
        values = {"which": row.id, "seen": row.beat_at or 0, "beat_at": now_ms()}
        return self._database.change(_CLAIM_BEAT, values) == 1

    def settle_beat(self, webhook: str, error: str | None) -> None:
        """Record what came of a heartbeat.

        Args:
            webhook: The receiver's id.
            error: Why it failed, without a secret; None if it was taken.
        """
        at = {"delivered_at": now_ms()} if error is None else {"failed_at": now_ms()}
        self._database.change(update(WEBHOOKS).where(_ITS), {"which": webhook, "error": error, **at})

    def remove(self, webhook: str, what: Event) -> None:
        """Remove a receiver and its notifications. It is idempotent."""
        with self._database.write(what) as c:
            gone = {"ended_at": now_ms(), "ended_why": REMOVED, "nonce": None, "sealed": None}
            c.execute(update(WEBHOOKS).where(_ITS), {"which": webhook, **gone})
            c.execute(_FORGET, {"whose": webhook})

    def end(self, webhook: str, what: Event) -> None:
        """End a receiver that answered that it is gone: its notifications have failed. It is idempotent."""
        now = now_ms()
        with self._database.write() as c:
            if c.execute(_END, {"which": webhook, "ended_at": now, "ended_why": GONE}).rowcount:
                self._database.record_in(c, what)
            waits = NOTIFICATIONS.c.webhook == webhook, NOTIFICATIONS.c.status == WAITING
            c.execute(update(NOTIFICATIONS).where(*waits).values(status=FAILED, failed_at=now, error="410 Gone"))
