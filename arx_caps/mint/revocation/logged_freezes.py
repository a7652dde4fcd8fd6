# SPDX-License-Identifier: Apache-2.0
"""The freezes that the signed log has, and the mint's database does not. SPEC 10.12.

A database that was restored from a backup lacks the freezes made since. ``freezes`` puts them back.
"""

from typing import Any, Final

from arx_caps.audit.ingest.entries import read_event
from arx_caps.audit.store.log_store import LogStore
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import Freeze
from arx_verifier.revocation.epoch import FREEZING

THAW: Final = "thaw"
_KINDS: Final = tuple(f"store.{op}" for op in (*sorted(FREEZING), THAW))  # of the log's records


def find_missing(db: MintDatabase, log: LogStore) -> list[Freeze]:
    """Return the freezes that the log has without a later thaw, and the database lacks.

    A record whose target an erasure has removed counts as none.

    Args:
        db: The mint's database, which has followed the store's log.
        log: The audit log.

    Raises:
        AuditError: A record is malformed.
        StoreError: A database did not answer.
    """
    known, frozen = db.epoch.freezes(), _frozen_in(log)
    return [freeze for target, freeze in frozen.items() if target not in known and not _was_thawed(db, freeze)]


def _frozen_in(log: LogStore) -> dict[str, Freeze]:
    """Return the freezes in force at the log's end, by target."""
    frozen: dict[str, Freeze] = {}
    for row in log.events(_KINDS):
        event = read_event(row.kept, row.body)
        facts: dict[str, Any] = event.named | (event.facts or {})
        target, op = facts.get("target"), str(facts.get("op"))
        if not target:  # it named a person, and was erased; or a rebuild of the log has no body
            continue
        if op == THAW:
            frozen.pop(target, None)
        else:
            frozen[target] = Freeze(target, event.at, event.by, str(facts.get("reason") or ""), op, event.number)
    return frozen


def _was_thawed(db: MintDatabase, freeze: Freeze) -> bool:
    """Return whether the database has a thaw that the log does not have yet."""
    rows = db.kills.list(target=freeze.target)
    return any(row.at_ms >= freeze.at_ms and (THAW, freeze.target) in row.targets for row in rows)
