# SPDX-License-Identifier: Apache-2.0
"""Take things out of the log so that every proof still holds: old records, or what is told of a person.  SPEC 17.9.

Records go in blocks of 256 from the beginning and leave their hashes.  A body goes alone: its record stays, and names a
digest that nobody can guess.  Either is itself a record, made before anything goes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.audit import tiles
from arx_caps.audit.entries import PRUNED_KIND, make_note
from arx_caps.audit.paths import WIDTH
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import BATCH, CHECKPOINT, NODE, PRUNED, RECORD, STATE
from arx_caps.audit.tree import leaf_hash
from arx_caps.audit.writing import Writing

BLOCKS: Final = 32  # of one transaction: others write in between
ERASED_KIND: Final = "log.erased"
Told = Callable[[int, int], None]  # how many are done, of how many


def index_at(store: LogStore, at_ms: int) -> int:
    """Return the index of the first record that came at a time or later, by the mint's clock; the size if none did."""
    with store.reading() as c:
        found = c.execute(select(func.min(BATCH.c.idx)).where(BATCH.c.taken_ms >= at_ms)).scalar()
        return int(c.execute(select(STATE.c.size)).scalar_one() if found is None else found)


def prune(store: LogStore, folder: Path, before: int, *, by: str, reason: str, progress: Told = lambda *_: None) -> int:
    """Take away the records before an index, and leave their hashes.

    Only whole blocks of 256 that are under a signed checkpoint go.

    Args:
        store: The log.
        folder: Its files.
        before: Records from here on stay.
        by: Who does it.
        reason: Why; both are recorded.
        progress: Told now and then.

    Returns:
        The first record that is still there.

    Raises:
        StoreError: The database did not answer; what is gone by then is recorded.
    """
    with store.writing() as log:
        signed = int(log.connection.execute(select(func.max(CHECKPOINT.c.size))).scalar() or 0)
        end, start = min(before, signed) // WIDTH * WIDTH, log.first
        if end > start:
            named = {"first": start, "last": end - 1}
            log.note(make_note(PRUNED_KIND, by, log.now_ms, named, named | {"reason": reason}))
    for at in range(start, end, BLOCKS * WIDTH):
        with store.writing() as log:
            _take(log, min(at + BLOCKS * WIDTH, end))
        progress(min(at + BLOCKS * WIDTH, end) - start, end - start)
    first = max(start, end)
    tiles.prune(folder, signed, first)
    return first


def erase(store: LogStore, *, subject: str | None = None, before: int | None = None, by: str, reason: str) -> int:
    """Erase bodies: all that is told of a person, or all before an index.  The records and their places stay.

    What a copy, a backup or a service's own journal holds is not reached from here.

    Args:
        store: The log.
        subject: The person's target, as ``arx_verifier.token.targets.subject_target`` writes it.
        before: Bodies from here on stay.
        by: Who does it.
        reason: Why; both are recorded, the subject is not.

    Returns:
        How many were erased.

    Raises:
        StoreError: The database did not answer; nothing was erased.
    """
    assert (subject is None) != (before is None)
    with store.writing() as log:
        c = log.connection
        _overwrite(c)
        nodes = list(c.execute(select(NODE.c.id).where(NODE.c.subject == subject)).scalars()) if subject else []
        which = (
            RECORD.c.node.in_(select(NODE.c.id).where(NODE.c.subject == subject)) if subject else RECORD.c.idx < before
        )
        gone = c.execute(update(RECORD).where(which, RECORD.c.body.is_not(None)).values(body=None)).rowcount
        for node in nodes:
            # The target is a hash that could be guessed, and what comes later is not to be found under what was erased.
            c.execute(
                update(NODE).where(NODE.c.id == node).values(subject=None, key=b"erased" + node.to_bytes(8, "big"))
            )
        named = {"records": gone} | ({} if before is None else {"before": before})
        log.note(make_note(ERASED_KIND, by, log.now_ms, named, named | {"reason": reason}))
        if nodes:
            c.execute(update(STATE).values(erasures=STATE.c.erasures + 1))
    store.settle()
    return int(gone)


def _take(log: Writing, end: int) -> None:
    """Take away the blocks before an index, in one transaction."""
    c = log.connection
    _overwrite(c)
    rows = c.execute(select(RECORD.c.idx, RECORD.c.kept).where(RECORD.c.idx < end).order_by(RECORD.c.idx)).all()
    hashes: dict[int, list[bytes]] = {}
    for row in rows:
        hashes.setdefault(row.idx // WIDTH, []).append(leaf_hash(bytes(row.kept)))
    blocks: list[dict[str, Any]] = [{"block": block, "hashes": b"".join(each)} for block, each in hashes.items()]
    if blocks:
        c.execute(insert(PRUNED), blocks)
    c.execute(delete(RECORD).where(RECORD.c.idx < end))
    c.execute(delete(BATCH).where(BATCH.c.idx + BATCH.c.last - BATCH.c.first < end))
    c.execute(update(STATE).values(first=end))


def _overwrite(c: Connection) -> None:
    """Have SQLite write over what is deleted; PostgreSQL does so when it vacuums."""
    if c.dialect.name == "sqlite":
        c.exec_driver_sql("PRAGMA secure_delete=ON")
