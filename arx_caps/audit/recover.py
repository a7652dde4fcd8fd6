# SPDX-License-Identifier: Apache-2.0
"""Take back into a database that was put back what it has lost, from the log's own files.  SPEC 17.10.

Somebody restores a backup: what was signed since is not in it, and a log that went on from there would contradict its
own signatures.  The files still have every record that was signed, without its body.  They are taken only where they
are what was signed and begin as the database does; where they are not, nothing is changed.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import select

from arx_caps.audit.checkpoint import open_checkpoint
from arx_caps.audit.entries import (
    EVENT_CODE,
    LOG,
    LOST,
    Entry,
    is_event,
    make_note,
    outcome_of,
    outcome_of_event,
    place_of_event,
    read_event,
)
from arx_caps.audit.errors import IncompleteError, TamperedError
from arx_caps.audit.nodes import SERVICE, Place, Step, place_of
from arx_caps.audit.note import VerifierKey
from arx_caps.audit.paths import CHECKPOINT, WIDTH
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import SOURCE, asked_by
from arx_caps.audit.tiles import TileReader, fetch_from
from arx_caps.audit.tree import leaf_hash
from arx_verifier.records import read_sealed

RECOVERED: Final = "log.recovered"


class Run(NamedTuple):
    """Whose record it is."""

    verifier: str
    boot: str
    audience: str


def recover(
    store: LogStore,
    folder: Path,
    key: VerifierKey,
    *,
    by: str,
    reason: str,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Take back what the database does not have.

    Args:
        store: The log's database; nobody else writes it meanwhile.
        folder: The log's files.
        key: The log's key.
        by: Who does it.
        reason: Why; both are recorded.
        progress: Told now and then how many are read, of how many.

    Returns:
        How many records were taken back; 0 where none is missing.

    Raises:
        IncompleteError: The files do not have them; nothing was changed.
        TamperedError: The files are not what was signed, or not this database's log; nothing was changed.
        NoteError: There is no checkpoint of this log.
        StoreError: The database did not answer; nothing was changed.
    """
    raw = fetch_from(folder)(CHECKPOINT)
    if raw is None:
        raise IncompleteError(f"{folder} has no checkpoint: what was signed is not known here")
    head = open_checkpoint(raw, key).checkpoint
    reader, tree = TileReader(fetch_from(folder), head.size), store.standing().tree
    if tree.size >= head.size:
        return 0
    if reader.root() != head.root:
        raise TamperedError("the files are not what was signed")
    if reader.root(tree.size) != tree.root():
        told = f"the database's {tree.size} records are not the first of those that were signed: it went its own way"
        raise TamperedError(told, 0, tree.size - 1)
    lost = list(_lost(reader, tree.size, head.size, progress))
    with store.writing() as log:
        known = {(row.verifier, row.boot): row.audience for row in log.connection.execute(select(*SOURCE.c))}
        known |= {run[:2]: run.audience for run, _ in lost if run.audience}
        for run, group in groupby(lost, lambda item: item[0]):
            audience = run.audience or known.get(run[:2], "")
            source = log.source(run.verifier, run.boot, audience)
            entries = [about(entry, audience) for _, entry in group]
            if run.verifier == LOG:  # what the log says of itself is numbered where it stands
                entries = [entry._replace(sequence=n) for n, entry in enumerate(entries, source.high_water + 1)]
            log.append(source, entries)
            log.mark(source, max(source.high_water, *(entry.sequence for entry in entries)))
        named = {"first": tree.size, "last": head.size - 1}
        log.note(make_note(RECOVERED, by, log.now_ms, named, named | {"reason": reason}))
    return len(lost)


def _lost(
    reader: TileReader, start: int, end: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[Run, Entry]]:
    """Read what is missing, each record held to its leaf."""
    for block in range(start // WIDTH, -(-end // WIDTH)):
        progress(max(0, block * WIDTH - start), end - start)
        for index, (record, leaf) in enumerate(
            zip(reader.records(block), reader.leaves(block), strict=True), block * WIDTH
        ):
            if index < start:
                continue
            if record is None:
                raise IncompleteError(f"record {index} is gone from the files as well")
            if leaf_hash(record) != leaf:
                raise TamperedError(f"record {index} is not what was logged", index)
            yield read_kept(record)
    progress(end - start, end - start)


def about(entry: Entry, audience: str) -> Entry:
    """Put the service's name to a record of what nobody proved, which does not say it itself."""
    if entry.place.steps[0] != Step(SERVICE, "", ""):
        return entry
    return entry._replace(place=Place((Step(SERVICE, audience, audience),)))


def read_kept(kept: bytes) -> tuple[Run, Entry]:
    """Read a record without its body, as it is filed."""
    if not is_event(kept):
        record = read_sealed(kept, None)
        facts, call = record.facts, record.call
        run = Run(record.verifier, record.boot, facts.audience)
        place = place_of(facts, None, facts.audience)
        return run, Entry(record.sequence, call.at, place, outcome_of(call), call.code, asked_by(call.tool), kept, None)
    event = read_event(kept, None)
    verifier, _, boot = event.source.partition("/")
    audience = str(event.named.get("audience", "")) if event.kind == LOST else ""
    place = place_of_event(event.by, event.named)
    if event.kind == LOST:
        place = Place((Step(SERVICE, audience, audience),))
    outcome = outcome_of_event(event.kind)
    return Run(verifier, boot, audience), Entry(
        event.number, event.at, place, outcome, EVENT_CODE, event.kind, kept, None
    )
