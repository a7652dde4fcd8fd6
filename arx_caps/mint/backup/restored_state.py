# SPDX-License-Identifier: Apache-2.0
"""What a restored database must not be trusted with: what was revoked after the backup.  CONTROL 8.2, SPEC 10.12."""

import os
import secrets
from typing import Final, NamedTuple

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.backup.manifest import Manifest
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import (
    AGENTS,
    CONSOLE_SESSIONS,
    ENROLMENTS,
    FREEZES,
    HIGH_WATER,
    HOLDER_KEYS,
    SESSIONS,
    TASKS,
)
from arx_verifier.clock import now_ms

REALM: Final = "realm"  # the target of all tokens
OPERATORS: Final = "operator:"  # what the names of operators among holders begin with
SKIPPED: Final = 1_000_000_000  # event numbers, more than a realm gives between a backup and its loss
WHY: Final = "restored from a backup: what was killed, frozen or removed after it is unknown"


class Revoked(NamedTuple):
    """What a restored realm has, and what does not go on in it.

    Attributes:
        agents: Number of active agents.
        sessions: Number of sessions that were open, and are not any more.
        tasks: The same of tasks.
        frozen: Number of freezes in force, without that of the realm.
        operator_keys: Number of keys of operators that were removed.
    """

    agents: int
    sessions: int
    tasks: int
    frozen: int
    operator_keys: int


# The store may be empty, may have every kill since, or may be an older one that lacks the same kills as the database.
# No comparison separates these cases, so a restored realm does not try to: it ends the history, by which every token of
# before is revoked, and freezes the realm until an operator has looked.  A killed agent's freeze may be gone, and
# without that of the realm the agent would open a new session.
def revoke_unknown(c: Connection, db: MintDatabase, manifest: Manifest, *, keep_operator_keys: bool) -> Revoked:
    """Revoke in an open transaction what may have been revoked after a backup.

    Args:
        c: The transaction.
        db: The restored database, which records the event.
        manifest: The backup.
        keep_operator_keys: Whether the keys of operators stay, because none was removed since.

    Raises:
        AuditError: The event cannot be recorded.
    """
    now = now_ms()
    # A history that no store has: a mint ends the store's, whatever it is.
    another = {"incarnation": f"restored-{secrets.token_hex(8)}", "chain": ""}
    c.execute(update(HIGH_WATER).where(HIGH_WATER.c.realm == manifest.realm).values(another))
    revoked = Revoked(
        _count(c, AGENTS.c.status == "active"),
        _count(c, SESSIONS.c.ended_at.is_(None), SESSIONS.c.expires_at > now),
        _count(c, TASKS.c.ended_at.is_(None), TASKS.c.expires_at > now),
        _count(c, FREEZES.c.target != REALM),
        0,
    )
    c.execute(delete(FREEZES).where(FREEZES.c.target == REALM))
    freeze = {"target": REALM, "at_ms": now, "by": "restore", "why": WHY, "op": "freeze", "seq": 0}
    c.execute(insert(FREEZES).values(freeze))
    c.execute(delete(CONSOLE_SESSIONS))
    c.execute(delete(ENROLMENTS))
    if not keep_operator_keys:
        # The thief of a key that was removed since could thaw the realm.
        removed = c.execute(delete(HOLDER_KEYS).where(HOLDER_KEYS.c.holder.startswith(OPERATORS))).rowcount
        revoked = revoked._replace(operator_keys=removed)
    # The log may have events that the mint's database lacks: of between the two copies, or in files that are put back.
    # The log drops an event whose number it has, so the next number is one that no event has had.
    db.outbox.skip(c, SKIPPED)
    by = f"host:uid-{os.getuid()}"
    facts = {"backup_at": manifest.at_ms, "records": manifest.records, "operator_keys": revoked.operator_keys}
    db.record_in(c, Event.of("realm.restored", by, **facts))
    return revoked


def _count(c: Connection, *conditions: object) -> int:
    return int(c.execute(select(func.count()).where(*conditions)).scalar_one())  # type: ignore[arg-type]
