# SPDX-License-Identifier: Apache-2.0
"""Send notifications to webhooks until their receivers have taken them, for about a day. CONTROL 7.3."""

# A receiver has a thread of its own while something is due for it, so that one that hangs delays no other, nor the
# mint. Of several mints the one that claims a notification sends it; when that mint dies, its claim ends and another
# one sends it. So a receiver gets each at least once, always with the same id.

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.notices import HEARTBEAT
from arx_caps.mint.db.tables import NoticeRow, WebhookRow
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.notifications.alarms import Alarms
from arx_caps.mint.notifications.message import Notice
from arx_caps.mint.notifications.receivers import Outcome, open_receiver, send_notice
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, SettingsError

LOOK_S: Final = 0.5  # how often it looks for what is due
CLAIM_MS: Final = 30_000  # longer than an attempt; another mint sends what a dead one has claimed after this
# After each failed attempt: about 24 hours in all, so that a receiver may be down for a night.
RETRIES_S: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000)
JITTER: Final = 0.2  # so that what failed together is not sent again together
MAX_RETRY_AFTER_S: Final = 6 * 3600  # of what a receiver may ask for
TIDY_S: Final = 3600.0
STOP_S: Final = 2.0  # for attempts under way at a stop; the next mint repeats the others
GONE: Final = 410
UNREADY: Final = 1.5  # intervals after which a mint that is not ready sends a heartbeat, if no other mint has

_log = logging.getLogger(__name__)


class NotificationSender:
    """Sends the notifications of a realm, in threads of its own.

    Args:
        realm: The realm.
        db: The mint's database.
        roots: Their seal is also that of the receivers.
        alarms: Looks at log and verifiers.
        view_state: Returns the facts of a heartbeat: whether this mint is ready, and what it is.
    """

    def __init__(
        self,
        realm: Realm,
        db: MintDatabase,
        roots: RootKeys,
        alarms: Alarms,
        view_state: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._realm, self._db, self._roots, self._alarms = realm, db, roots, alarms
        self._view_state = view_state
        self._stop, self._testing = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._sending: dict[str, threading.Thread] = {}
        self._tidied = time.monotonic()
        self._failing: list[str] = []

    def start(self) -> None:
        """Start to send."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="arx-mint-notify", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; attempts under way have a short time to end."""
        self._stop.set()
        until = time.monotonic() + STOP_S
        for thread in (self._thread, *self._sending.values()):
            if thread is not None:
                thread.join(max(0.0, until - time.monotonic()))
        self._thread = None

    def test(self, row: WebhookRow, kind: str, by: str) -> Outcome:
        """Send one test to a receiver, now and once.

        Args:
            row: The receiver's row.
            kind: The kind of event that it looks like.
            by: The actor.

        Raises:
            GrantError: ``conflict``: another test is under way.
            SettingsError: The receiver's secret does not open.
        """
        # A test takes a thread of the API while it waits for the receiver.
        if not self._testing.acquire(blocking=False):
            raise GrantError("another test is under way: wait for its end", code="conflict")
        try:
            now = now_ms()
            return self._send(row, Notice(f"n-test-{now}", kind, now, {"by": by, "test": True}))
        finally:
            self._testing.release()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            failing = [error for error in map(_try, (self._look, self._alarms.look)) if error is not None]
            if failing and failing != self._failing:
                _log.error("realm %s: notifications: %s", self._realm.name, "; ".join(failing))
            self._failing = failing

    def _look(self) -> None:
        """Start a thread for each receiver for which something is due and that has none."""
        self._sending = {webhook: thread for webhook, thread in self._sending.items() if thread.is_alive()}
        due = self._db.notifications.due() | self._db.webhooks.beats_due()
        for webhook in due - self._sending.keys():
            thread = threading.Thread(
                target=self._serve_receiver, args=(webhook,), name=f"arx-mint-{webhook}", daemon=True
            )
            self._sending[webhook] = thread
            thread.start()
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            self._db.notifications.tidy()

    def _serve_receiver(self, webhook: str) -> None:
        """Send what is due for a receiver, one after the other."""
        # The next look starts another thread, so an error of the database needs no more here.
        with contextlib.suppress(ArxError):
            while not self._stop.is_set():
                receiver = self._db.webhooks.find(webhook)
                if receiver is not None and receiver.heartbeat_ms is not None:
                    self._beat(receiver)
                    return
                row = self._db.notifications.claim(webhook, CLAIM_MS) if receiver is not None else None
                if receiver is None or row is None:
                    return
                self._settle(row, self._attempt(receiver, Notice(row.id, row.kind, row.at_ms, row.facts)))

    def _beat(self, receiver: WebhookRow) -> None:
        """Send a heartbeat to a receiver that waits for one; an attempt that fails is not repeated."""
        facts, interval_ms = self._view_state(), receiver.heartbeat_ms or 0
        # A ready mint goes first. A plain GET cannot contain that the mint is not ready: none is sent then.
        age_ms = abs(now_ms() - (receiver.beat_at or 0))  # a time far ahead is of a mint whose clock was wrong
        late = age_ms >= UNREADY * interval_ms
        if age_ms < interval_ms:  # another mint was first
            return
        if not facts["ready"] and (receiver.format == "get" or not late):
            return
        if receiver.ended_at is not None or not self._db.webhooks.claim_beat(receiver):
            return
        notice = Notice(f"n-{secrets.token_hex(12)}", HEARTBEAT, now_ms(), {**facts, "interval_ms": interval_ms})
        outcome = self._attempt(receiver, notice)
        self._db.webhooks.settle_beat(receiver.id, outcome.error)
        self._end_if_gone(receiver.id, outcome)

    def _end_if_gone(self, webhook: str, outcome: Outcome) -> None:
        if outcome.status == GONE:
            self._db.webhooks.end(webhook, Event.of("webhook.gone", "mint", webhook=webhook))

    def _attempt(self, receiver: WebhookRow, notice: Notice) -> Outcome:
        try:
            return self._send(receiver, notice)
        except SettingsError as error:  # this mint was not restarted after a reseal
            return Outcome(None, str(error))

    def _send(self, receiver: WebhookRow, notice: Notice) -> Outcome:
        return send_notice(open_receiver(self._roots, receiver), receiver.format, notice, self._realm)

    def _settle(self, row: NoticeRow, outcome: Outcome) -> None:
        """Record what came of an attempt, and when the next one is due."""
        if outcome.error is None:
            self._db.notifications.delivered(row)
            return
        next_at = _next_at(row.tries, outcome.retry_after_s)
        self._db.notifications.failed(row, outcome.error, next_at)
        self._end_if_gone(row.webhook, outcome)
        if next_at is None and outcome.status != GONE:
            what = (self._realm.name, row.id, row.webhook, outcome.error)
            _log.error("realm %s: notification %s was given up, webhook %s: %s", *what)


def _try(work: Callable[[], None]) -> str | None:
    """Do some work, and return its error as text, or None."""
    try:
        work()
    except ArxError as error:
        return str(error)
    return None


def _next_at(tries: int, retry_after_s: int | None) -> int | None:
    """Return when the next attempt is due, in ms since the Unix epoch; None after the last one.

    Args:
        tries: The attempts so far.
        retry_after_s: How long the receiver asks to wait, s, or None.
    """
    if tries > len(RETRIES_S):
        return None
    wait_s = max(RETRIES_S[tries - 1], min(retry_after_s or 0, MAX_RETRY_AFTER_S))
    return now_ms() + int(1000 * wait_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - no secret
