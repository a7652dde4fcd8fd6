# SPDX-License-Identifier: Apache-2.0
"""Prune old records, or erase personal data, so that every proof still verifies.  LOG 1.9.

Pruning removes records in blocks of 256 from the beginning, and keeps their hashes.  Erasing removes bodies, and keeps
the records.  Each is itself recorded before anything is removed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import LargeBinary, and_, delete, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import EVENT, PRUNED_KIND, make_note
from arx_caps.audit.integrity.erasures import ERASED_KIND, name_erasures
from arx_caps.audit.merkle import tiles
from arx_caps.audit.merkle.paths import WIDTH
from arx_caps.audit.merkle.tree import leaf_hash
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import BATCH, CHECKPOINT, NODE, PRUNED, RECORD, STATE
from arx_caps.audit.store.transaction import Writing

BLOCKS: Final = 32  # in one transaction, so that other writers do not wait long
Progress = Callable[[int, int], None]  # receives how many are done, of how many


def index_at(store: LogStore, at_ms: int) -> int:
    """Return the index of the first record that the mint received at a time or later; the size without one.

    Args:
        store: The log.
        at_ms: The time by the mint's clock, ms since the Unix epoch.
    """
    with store.reading() as c:
        index = c.execute(select(func.min(BATCH.c.idx)).where(BATCH.c.taken_ms >= at_ms)).scalar()
        return int(c.execute(select(STATE.c.size)).scalar_one() if index is None else index)


def prune(
    store: LogStore, folder: Path, before: int, *, by: str, reason: str, progress: Progress = lambda *_: None
) -> int:
    """Delete the records before an index, and keep their hashes.

    Only whole blocks of 256 below a signed checkpoint are deleted.

    Args:
        store: The log.
        folder: Its files.
        before: Index of the first record to keep.
        by: The actor, for the record.
        reason: The reason, for the record.
        progress: Called now and then with how many records are done, of how many.

    Returns:
        The index of the first remaining record.

    Raises:
        StoreError: The database did not answer; the deletions until then are recorded.
    """
    with store.writing() as log:
        signed = int(log.connection.execute(select(func.max(CHECKPOINT.c.size))).scalar() or 0)
        # Whole blocks alone: the hashes of a block's records are stored together, and proofs need all of them.
        end, start = min(before, signed) // WIDTH * WIDTH, log.first
        if end > start:
            named = {"first": start, "last": end - 1}
            # Recorded before the first deletion: a crash in between leaves a record of what may be missing, not the
            # reverse.
            log.note(make_note(PRUNED_KIND, by, log.now_ms, named, named | {"reason": reason}))
    for at in range(start, end, BLOCKS * WIDTH):
        with store.writing() as log:
            # A transaction for some blocks, so that services that ship meanwhile wait for a moment only.
            _take(log, min(at + BLOCKS * WIDTH, end))
        progress(min(at + BLOCKS * WIDTH, end) - start, end - start)
    first = max(start, end)
    # The files last: a file without rows can be pruned again, and rows without a file look like tampering.
    tiles.prune(folder, signed, first)
    return first


def erase(store: LogStore, *, subject: str | None = None, before: int | None = None, by: str, reason: str) -> int:
    """Delete bodies: all of one person, or all before an index.  The records stay.

    Copies, backups and services' own journals are not changed.

    Args:
        store: The log.
        subject: The person's target, in the form of ``arx_verifier.token.targets.subject_target``.
        before: Index of the first body to keep.
        by: The actor, for the record.
        reason: The reason, for the record; the subject is not recorded.

    Returns:
        The number of erased bodies.

    Raises:
        StoreError: The database did not answer; nothing was erased.
    """
    assert (subject is None) != (before is None)
    with store.writing() as log:
        c = log.connection
        _overwrite(c)
        nodes = list(c.execute(select(NODE.c.id).where(NODE.c.subject == subject)).scalars()) if subject else []
        which = and_(_names(c, subject) if subject else RECORD.c.idx < before, RECORD.c.body.is_not(None))
        gone = list(c.execute(select(RECORD.c.idx).where(which).order_by(RECORD.c.idx)).scalars())
        # A body contains a random salt, so its digest, which stays in the record, cannot be guessed.
        c.execute(update(RECORD).where(which).values(body=None))
        for node in nodes:
            # The target is a hash that could be guessed.  Later records of the person must not join the erased node.
            c.execute(
                update(NODE).where(NODE.c.id == node).values(subject=None, key=b"erased" + node.to_bytes(8, "big"))
            )
        for named in name_erasures(gone, before):
            log.note(make_note(ERASED_KIND, by, log.now_ms, named, named | {"reason": reason}))
        if nodes:
            c.execute(update(STATE).values(erasures=STATE.c.erasures + 1))
    store.settle()
    return len(gone)


def _names(c: Connection, subject: str) -> Any:
    """Return the condition for the records of a person, and for those whose body has the person's target."""
    needle = subject.encode()
    # A kill of the person is a record of the realm or of its operator: its targets are in the body alone.
    if c.dialect.name == "sqlite":
        found = func.instr(RECORD.c.body, needle)
    else:
        found = func.position(literal(needle, LargeBinary).op("IN")(RECORD.c.body))
    own = or_(RECORD.c.outcome == EVENT, _tools("arx."))
    theirs = or_(RECORD.c.node.in_(select(NODE.c.id).where(NODE.c.subject == subject)), and_(own, found > 0))
    # One reason goes with all targets of a step of the revocation store, and may name the person.
    steps = c.execute(select(RECORD.c.source, RECORD.c.at_ms).where(_tools("store."), theirs).distinct()).all()
    return or_(theirs, and_(_tools("store."), tuple_(RECORD.c.source, RECORD.c.at_ms).in_(map(tuple, steps))))


def _tools(prefix: str) -> Any:
    """Return the condition for tools and kinds of events that begin with a word and a dot, by their index."""
    return and_(RECORD.c.tool >= prefix, RECORD.c.tool < prefix[:-1] + "/")  # which follows the dot


def _take(log: Writing, end: int) -> None:
    """Delete the blocks before an index, in one transaction."""
    c = log.connection
    _overwrite(c)
    rows = c.execute(select(RECORD.c.idx, RECORD.c.kept).where(RECORD.c.idx < end).order_by(RECORD.c.idx)).all()
    hashes: dict[int, list[bytes]] = {}
    for row in rows:
        hashes.setdefault(row.idx // WIDTH, []).append(leaf_hash(bytes(row.kept)))
    blocks: list[dict[str, Any]] = [{"block": block, "hashes": b"".join(leaves)} for block, leaves in hashes.items()]
    if blocks:
        c.execute(insert(PRUNED), blocks)
    c.execute(delete(RECORD).where(RECORD.c.idx < end))
    c.execute(delete(BATCH).where(BATCH.c.idx + BATCH.c.last - BATCH.c.first < end))
    c.execute(update(STATE).values(first=end))


def _overwrite(c: Connection) -> None:
    """Make SQLite overwrite deleted content; PostgreSQL overwrites it at its next vacuum."""
    if c.dialect.name == "sqlite":
        c.exec_driver_sql("PRAGMA secure_delete=ON")
