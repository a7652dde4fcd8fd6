# SPDX-License-Identifier: Apache-2.0
"""Hold the database's rows to the signed files: questions are answered from rows, and rows can be edited.  SPEC 17.11.

Whoever keeps the database can change what a question finds without touching a file or a signature.  Each row has to be
the leaf at its place, with the body that it names, and filed as what it says: by time, outcome, tool and run, and a
decision by whom it is about.  How rows are filed belongs to the schema of ``tables``.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.engine import Row

from arx_caps.audit.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.entries import EVENT_CODE, LOG, Reader, is_event, outcome_of, outcome_of_event, read_event
from arx_caps.audit.errors import IncompleteError, TamperedError
from arx_caps.audit.nodes import place_of
from arx_caps.audit.note import VerifierKey
from arx_caps.audit.paths import CHECKPOINT, WIDTH
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import BATCH, NODE, RECORD, SOURCE, STATE, asked_by
from arx_caps.audit.tiles import TileReader, fetch_from
from arx_caps.audit.tree import check_inclusion, leaf_hash
from arx_caps.audit.wire import Batch
from arx_verifier.errors import AuditError, RequestError
from arx_verifier.records import Sealed, read_sealed

DIGEST_BYTES: Final = 32  # bytes at the end of a kept part
_NODE: Final = (NODE.c.kind, NODE.c.ref, NODE.c.name, NODE.c.agent)
_ROWS: Final = (
    select(*RECORD.c, SOURCE.c.verifier, SOURCE.c.boot, SOURCE.c.audience, NODE.c.key.label("place"), *_NODE)
    .outerjoin(SOURCE, SOURCE.c.id == RECORD.c.source)
    .outerjoin(NODE, NODE.c.id == RECORD.c.node)
    .order_by(RECORD.c.idx)
)


class Rows:
    """Holds rows to files, block by block.

    Args:
        store: The log's database.
        reader: The log's files.
        head: The checkpoint that the files have, believed.

    Attributes:
        size: How many records are signed.
        blocks: How many blocks that makes.
    """

    def __init__(self, store: LogStore, reader: TileReader, head: Checkpoint) -> None:
        self.size, self.blocks = head.size, -(-head.size // WIDTH)
        self._store, self._reader, self._head, self._batches = store, reader, head, Reader()

    def hold(self, block: int) -> None:
        """Hold the rows of a block of 256.  What retention took has none.

        Raises:
            IncompleteError: A file that this needs is not there.
            TamperedError: A row is not what was signed, or a file is not.
            StoreError: The database did not answer.
        """
        for index, why in self.wrong(block):
            raise TamperedError(f"record {index} of the database {why}", index)

    def wrong(self, block: int) -> Iterator[tuple[int, str]]:
        """Yield the index of each row of a block that is not what was signed, and why; raises as ``hold``."""
        start, end = block * WIDTH, min(self.size, (block + 1) * WIDTH)
        leaves = self.leaves(block)
        first, found, stretches = self._read(start, end)
        rows = {row.idx: row for row in found}
        for index, leaf in enumerate(leaves, start) if first < end else ():
            row = rows.get(index)
            why = "is not there any more" if row is None else self._wrong(row, leaf)
            if why is None and row is not None and not stands(stretches, row):
                why = "is not in the stretch of its run"
            if why is not None:
                yield index, why

    def leaves(self, block: int) -> list[bytes]:
        """Return the hashes of a block's leaves, which the signed root proves.

        Raises:
            IncompleteError: A file that this needs is not there.
            TamperedError: A file is not what was signed.
        """
        leaves, index = self._reader.leaves(block), block * WIDTH
        try:  # the path of one leaf is made of all others of its block
            check_inclusion(leaves[0], index, self._head.size, self._reader.inclusion(index), self._head.root)
        except TamperedError as error:
            last = index + len(leaves) - 1
            raise TamperedError(
                f"the files' hashes of the records {index} to {last} are not theirs", index, last
            ) from error
        return leaves

    def signed(self, index: int) -> bytes:
        """Return the record that was signed, from the files.

        Raises:
            IncompleteError: It is gone from the files as well.
            TamperedError: What the files have is not what was signed.
        """
        record, leaf = self._reader.record(index), self.leaves(index // WIDTH)[index % WIDTH]
        if record is None:
            raise IncompleteError(f"record {index} is gone from the files as well")
        if leaf_hash(record) != leaf:
            raise TamperedError(f"record {index} of the files is not what was signed", index)
        return record

    def _read(self, start: int, end: int) -> tuple[int, Sequence[Any], Sequence[Any]]:
        with self._store.reading() as c:
            rows: Sequence[Any] = c.execute(_ROWS.where(RECORD.c.idx >= start, RECORD.c.idx < end)).all()
            below = select(func.max(BATCH.c.idx)).where(BATCH.c.idx <= start).scalar_subquery()
            stretches = c.execute(
                select(*BATCH.c).where(BATCH.c.idx >= func.coalesce(below, start), BATCH.c.idx < end)
            ).all()
            # Last: what retention took in between is not missed.
            return int(c.execute(select(STATE.c.first)).scalar_one()), rows, stretches

    def _wrong(self, row: Row[Any], leaf: bytes) -> str | None:
        kept, body = bytes(row.kept), None if row.body is None else bytes(row.body)
        if leaf_hash(kept) != leaf:
            return "is not what was signed"
        if body is not None and sha256(body).digest() != kept[-DIGEST_BYTES:]:
            return "has a body that is not the one it names"
        try:
            filed = self._filed_event(row, kept) if is_event(kept) else self._filed(row, kept, body)
        except (AuditError, RequestError):
            return "is filed as another run's"
        return None if filed else "is filed as something that it does not say"

    def _filed(self, row: Row[Any], kept: bytes, body: bytes | None) -> bool:
        if body is not None:
            batch = Batch(row.verifier, row.audience, row.boot, row.sequence, None, (Sealed(kept, body),), closed=False)
            (entry,) = self._batches.read(batch)
            told = (entry.at_ms, entry.outcome, entry.code, entry.tool)
            return told == (row.at_ms, row.outcome, row.code, row.tool) and entry.place.key == bytes(row.place or b"")
        record = read_sealed(kept, None)  # the person went with its body
        call, place = record.call, place_of(record.facts, None, row.audience)
        said = (record.verifier, record.boot, record.sequence, call.at, outcome_of(call), call.code)
        filed = (row.verifier, row.boot, row.sequence, row.at_ms, row.outcome, row.code)
        about = (*place.steps[-1], place.agent, call.tool)
        return said == filed and tuple(map(asked_by, about)) == (row.kind, row.ref, row.name, row.agent, row.tool)

    def _filed_event(self, row: Row[Any], kept: bytes) -> bool:
        event = read_event(kept, None)
        told = (event.at, outcome_of_event(event.kind), EVENT_CODE, event.kind)
        if told != (row.at_ms, row.outcome, row.code, row.tool):
            return False
        if event.source == LOG:  # such events have no numbers of their own
            return bool(row.verifier == LOG)
        return (event.source, event.number) == (f"{row.verifier}/{row.boot}", row.sequence)


def rows_of(store: LogStore, folder: Path, key: VerifierKey) -> Rows:
    """Return a database's rows beside a folder's files.

    Raises:
        IncompleteError: The folder has no checkpoint.
        NoteError: Its checkpoint is none.
        TamperedError: It is not this log's.
    """
    raw = fetch_from(folder)(CHECKPOINT)
    if raw is None:
        raise IncompleteError(f"{folder} has no checkpoint: what was signed is not known here")
    head = open_checkpoint(raw, key).checkpoint
    return Rows(store, TileReader(fetch_from(folder), head.size), head)


def hold_rows(rows: Rows, progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Hold all rows.

    Args:
        rows: The rows.
        progress: Told now and then how many are done, of how many.

    Raises:
        IncompleteError: A file that this needs is not there.
        TamperedError: The first row that is not what was signed.
        StoreError: The database did not answer.
    """
    for block in range(rows.blocks):
        rows.hold(block)
        progress(min((block + 1) * WIDTH, rows.size), rows.size)


def stands(stretches: Sequence[Row[Any]], row: Row[Any]) -> bool:
    """Tell whether a row stands where its run's stretch has it: that is how it is found by its id."""
    held = [each for each in stretches if each.idx <= row.idx <= each.idx + each.last - each.first]
    return any((each.source, each.first + row.idx - each.idx) == (row.source, row.sequence) for each in held)
