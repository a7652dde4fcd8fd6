# SPDX-License-Identifier: Apache-2.0
"""Check that the receivers of notifications take them.  CONTROL 7."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from arx_caps.cli.commands.doctor.check import Check, ask_database
from arx_caps.settings.durations import show_span
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms

if TYPE_CHECKING:
    from arx_caps.mint.db.tables import WebhookRow

NAME: Final = "notifications"
SLACK_MS: Final = 10_000  # for an attempt, beside two intervals


def check_notifications(realm: Realm) -> Iterator[Check]:
    """Check each receiver, as the mint's database has it; yield nothing without a receiver.

    Args:
        realm: The realm.
    """
    rows, counts = ask_database(realm, lambda db: (db.webhooks.list(), db.webhooks.counts())) or ((), {})
    for one in rows:
        waiting, failed = (counts.get((one.id, status), 0) for status in ("waiting", "failed"))
        name = f"{one.id} at {one.origin}"
        if one.ended_at is not None:
            mend = f"add it again, or remove it: `arx webhook remove {one.id}`"
            yield Check(NAME, False, f"{name} has answered that it is gone", mend)
        elif one.heartbeat_ms is not None:
            yield _check_heartbeat(name, one)
        elif failed:
            found = f"{name} has not taken {failed} within a day: {one.error or 'it takes them again'}"
            yield Check(NAME, False, found, "repair the receiver, then run `arx webhook resend --all`")
        else:
            late = f", {waiting} waiting: {one.error}" if one.error else ""
            yield Check(NAME, True, name + late)


def _check_heartbeat(name: str, webhook: "WebhookRow") -> Check:
    interval_ms = webhook.heartbeat_ms or 0
    last = webhook.delivered_at
    # Of one that has taken none yet, its beginning counts.
    age_ms = max(0, now_ms() - (last or webhook.created_at))
    found = f"{name}: the last heartbeat was taken " + ("never" if last is None else f"{show_span(age_ms)} ago")
    if age_ms <= 2 * interval_ms + SLACK_MS:
        return Check(NAME, True, found)
    why = f", one is due every {show_span(interval_ms)}" + (f": {webhook.error}" if webhook.error else "")
    mend = "start a mint, or see its /readyz, if none runs and is ready; else repair the receiver"
    return Check(NAME, False, found + why, mend)
