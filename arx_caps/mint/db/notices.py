# SPDX-License-Identifier: Apache-2.0
"""Queue notifications of an event in the transaction that records it.

Which receivers there are is in ``repositories.webhooks``; ``arx_caps.mint.notifications`` sends.
"""

import secrets
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import NOTIFICATIONS, WEBHOOKS, NoticeRow
from arx_caps.revocation.targets import names_person

WAITING: Final = "waiting"
FAILED: Final = "failed"
APPROVAL_ASKED: Final = "approval.asked"
KILLED: Final = "targets.killed"
FROZEN: Final = "targets.frozen"
THAWED: Final = "targets.thawed"
LOG_HALTED: Final = "log.halted"
LOG_RESUMED: Final = "log.resumed"
VERIFIERS_LATE: Final = "verifiers.late"
VERIFIERS_BACK: Final = "verifiers.back"
WATCH_ENDS: Final = "watch.ends"
REFUSALS_HIGH: Final = "refusals.high"
REFUSALS_NORMAL: Final = "refusals.normal"
TEST: Final = "webhook.test"
HEARTBEAT: Final = "heartbeat"

# The kinds of events that are notified, each with its facts that leave the realm. An approval's arguments and reason
# stay: they may be personal data, which an erasure could not remove from a chat, and an approver must see them exactly.
# For the same reason the lines of a policy and the reason of an erasure stay.
NOTIFIED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        APPROVAL_ASKED: ("approval", "agent", "session", "task", "template", "audience", "tool", "need"),
        KILLED: ("seq", "targets", "reason"),
        FROZEN: ("seq", "targets", "reason"),
        THAWED: ("seq", "targets", "reason"),
        LOG_HALTED: ("why",),
        LOG_RESUMED: (),
        VERIFIERS_LATE: ("verifiers",),
        VERIFIERS_BACK: ("verifiers",),
        WATCH_ENDS: ("verifiers",),
        REFUSALS_HIGH: ("agents", "rate"),
        REFUSALS_NORMAL: ("agents", "rate"),
        "records.disputed": ("verifiers",),
        "log.pruned": ("first", "last"),
        "log.erased": ("records",),
        "log.recovered": ("first", "last"),
        "operator.enrolled": ("operator", "role"),
        "operator.removed": ("operator",),
        "operator.role_changed": ("operator", "role", "before"),
        "operator.keys_changed": ("operator", "added", "removed"),
        "operator.recovered": ("operator", "key"),
        "policy.loaded": ("policy", "before", "granted", "gone", "changed", "tables"),
        "key.rotated": ("key", "mints_from", "at_once"),
        "key.retired": ("key",),
        "key.resealed": ("seal",),
        "service.key_replaced": ("audience", "stolen"),
        "signing_key.created": ("key", "algorithm", "signs_from"),
        "epoch.rotated": ("seq", "why"),
        "mint.issuer_changed": ("issuer", "before"),
        "webhook.added": ("webhook", "origin", "format"),
        "webhook.removed": ("webhook",),
        "webhook.gone": ("webhook",),
    }
)
MAX_NAMES: Final = 32  # of a list of facts, such as the targets of a kill, in one notification
_LIVE: Final = CompiledStatement(select(WEBHOOKS.c.id, WEBHOOKS.c.kinds).where(WEBHOOKS.c.ended_at.is_(None)))


NOTICE_ROWS: Final = RowReader(NoticeRow, NOTIFICATIONS)
_ADD: Final = CompiledStatement(insert(NOTIFICATIONS))


def queue_notices(c: Connection, kind: str, by: str, at_ms: int, facts: Mapping[str, Any]) -> None:
    """Queue an event for each receiver that gets events of its kind, in an open transaction.

    Args:
        c: The transaction.
        kind: The kind of event; of one that is not in ``NOTIFIED``, nothing is queued.
        by: The actor.
        at_ms: When it was recorded, in ms since the Unix epoch.
        facts: Its facts.
    """
    sent = NOTIFIED.get(kind)
    if sent is None:
        return
    chosen = {name: facts[name] for name in sent if facts.get(name) is not None} | {"by": by}
    for name, value in list(chosen.items()):
        if isinstance(value, (list, tuple)):
            names = list(map(_without_person, value))
            chosen |= {name: names[:MAX_NAMES], "count": len(names)}
    for webhook, written in _LIVE.all(c):
        kinds = msgspec.json.decode(written, type=list[str])
        # A new receiver is not notified of itself.
        if (not kinds or kind in kinds) and webhook != facts.get("webhook"):
            _ADD.run(c, NOTICE_ROWS.values(new_notice(webhook, kind, at_ms, chosen)))


def erase_reasons(c: Connection, numbers: Collection[int]) -> None:
    """Erase the reasons in waiting and failed notifications of kills, freezes and thaws, in an open transaction.

    Args:
        c: The transaction.
        numbers: The numbers of the steps (``seq``).
    """
    rows = select(NOTIFICATIONS.c.id, NOTIFICATIONS.c.facts).where(NOTIFICATIONS.c.kind.in_((KILLED, FROZEN, THAWED)))
    for notice, text in c.execute(rows).all() if numbers else ():
        facts = msgspec.json.decode(text, type=dict[str, Any])
        if facts.get("seq") in numbers and facts.pop("reason", None) is not None:
            left = msgspec.json.encode(facts, order="sorted").decode()
            c.execute(update(NOTIFICATIONS).where(NOTIFICATIONS.c.id == notice).values(facts=left))


def new_notice(webhook: str, kind: str, at_ms: int, facts: Mapping[str, Any]) -> NoticeRow:
    """Return the row of a new notification.

    Args:
        webhook: The receiver's id.
        kind: The kind of event.
        at_ms: When it was recorded, in ms since the Unix epoch.
        facts: What is sent of its facts.
    """
    return NoticeRow(f"n-{secrets.token_hex(12)}", webhook, kind, at_ms, {**facts}, WAITING, 0, next_at=at_ms)


def _without_person(target: str) -> str:
    """Return a target; of one that names a person its kind alone."""
    return target.partition(":")[0] if names_person(target) else target
