# SPDX-License-Identifier: Apache-2.0
"""File signed records anew whose rows were edited, moved or removed, from the log's own files.  SPEC 17.11.

A row that ``rows`` finds wrong goes, and the record that was signed takes its place: with its body where that is still
the one it names, else without one.  Totals of nodes stay: they counted what came.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from sqlalchemy import delete, insert, select

from arx_caps.audit.bulk import insert_rows
from arx_caps.audit.entries import LOG, Entry, Reader, is_event, make_note
from arx_caps.audit.note import VerifierKey
from arx_caps.audit.paths import WIDTH
from arx_caps.audit.recover import RECOVERED, about, read_kept
from arx_caps.audit.rows import DIGEST_BYTES, rows_of
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import BATCH, RECORD, SOURCE
from arx_caps.audit.wire import Batch
from arx_caps.audit.writing import RECORD_COLUMNS, Writing
from arx_verifier.records import Sealed


def mend(
    store: LogStore,
    folder: Path,
    key: VerifierKey,
    *,
    by: str,
    reason: str,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """File anew what is not filed as it was signed.

    Args:
        store: The log's database; nobody else writes it meanwhile.
        folder: The log's files.
        key: The log's key.
        by: Who does it.
        reason: Why; both are recorded.
        progress: Told now and then how many are looked at, of how many.

    Returns:
        How many records were filed anew.

    Raises:
        IncompleteError: The files do not have one of them; nothing was changed.
        TamperedError: The files are not what was signed; nothing was changed.
        NoteError: There is no checkpoint of this log.
        StoreError: The database did not answer; nothing was changed.
    """
    rows = rows_of(store, folder, key)
    found: dict[int, bytes] = {}
    for block in range(rows.blocks):
        found |= {index: rows.signed(index) for index, _ in rows.wrong(block)}
        progress(min((block + 1) * WIDTH, rows.size), rows.size)
    if not found:
        return 0
    with store.writing() as log:
        bodies = _bodies(log, found)
        for index, kept in found.items():
            _file(log, index, kept, bodies.get(kept[-DIGEST_BYTES:]))
        named = {"first": min(found), "last": max(found), "mended": len(found)}
        log.note(make_note(RECOVERED, by, log.now_ms, named, named | {"reason": reason}))
    return len(found)


def _bodies(log: Writing, found: Iterable[int]) -> dict[bytes, bytes]:
    """Take the rows away, and return their bodies by digest: some may only have been moved."""
    bodies = {}
    for index in found:
        which = RECORD.c.idx == index
        body = log.connection.execute(select(RECORD.c.body).where(which)).scalar()
        log.connection.execute(delete(RECORD).where(which))
        if body is not None:
            bodies[sha256(body).digest()] = bytes(body)
    return bodies


def _file(log: Writing, index: int, kept: bytes, body: bytes | None) -> None:
    c, (run, entry) = log.connection, read_kept(kept)
    which = select(SOURCE.c.audience).where(SOURCE.c.verifier == run.verifier, SOURCE.c.boot == run.boot)
    audience = run.audience or c.execute(which).scalar() or ""
    source = log.source(run.verifier, run.boot, audience)
    entry = about(entry, audience)
    if run.verifier == LOG:  # what the log says of itself has the number of its stretch, or the next one
        entry = entry._replace(sequence=_number(log, index, source.id) or source.high_water + 1)
    elif body is not None and not is_event(kept):
        sealed = (Sealed(kept, body),)
        (entry,) = Reader().read(Batch(run.verifier, audience, run.boot, entry.sequence, None, sealed, closed=False))
    entry = entry._replace(body=body)
    row = (index, entry.at_ms, log.node_of(entry), source.id, entry.sequence, *entry[3:])
    insert_rows(c, RECORD, RECORD_COLUMNS, [row])
    if _number(log, index, source.id) != entry.sequence:
        _stretch(log, index, source.id, entry)
    if entry.sequence > source.high_water:
        log.mark(source, entry.sequence)


def _number(log: Writing, index: int, source: int) -> int | None:
    """Return the number that the stretch of a source gives to an index."""
    within = (BATCH.c.source == source, BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index)
    found = log.connection.execute(select(BATCH.c.first + index - BATCH.c.idx).where(*within)).scalar()
    return None if found is None else int(found)


def _stretch(log: Writing, index: int, source: int, entry: Entry) -> None:
    """Give an index a stretch of its own, in place of any that has it otherwise."""
    c = log.connection
    c.execute(delete(BATCH).where(BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index))
    own = {"idx": index, "source": source, "first": entry.sequence, "last": entry.sequence, "taken_ms": log.now_ms}
    c.execute(insert(BATCH).values(own | {"since_ms": entry.at_ms, "until_ms": entry.at_ms}))
