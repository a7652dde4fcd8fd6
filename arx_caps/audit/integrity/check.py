# SPDX-License-Identifier: Apache-2.0
"""Verify the log's database against the signed tree.  LOG 1.11, 2.2.

Each row must be the leaf at its index, have the body that the leaf names, and be indexed by what its record contains:
time, outcome, tool and run, and for a decision its node.  Each batch must be what its service signed.  ``tables``
defines the columns.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select

from arx_caps.audit.ingest.entries import (
    EVENT_CODE,
    LOG,
    LOST,
    PRUNED_KIND,
    RECOVERED,
    LogEntry,
    Reader,
    is_event,
    outcome_of,
    outcome_of_event,
    place_of_event,
    read_event,
)
from arx_caps.audit.ingest.place import SERVICE, PlaceStep, RecordPlace, asked_by, place_of
from arx_caps.audit.integrity.erasures import Erasures, group_indexes, read_erasures
from arx_caps.audit.merkle.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.audit.merkle.paths import CHECKPOINT, WIDTH
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.merkle.tree import Frontier, check_inclusion, edge_of, leaf_hash
from arx_caps.audit.shipping.batch import Batch, read_statement
from arx_caps.audit.store.batch_queue import logged
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import BATCH, NODE, RECORD, SOURCE, STATE
from arx_caps.credentials.keyfile import PublicKey
from arx_verifier.errors import AuditError, GrantError, RequestError
from arx_verifier.journal.record import Sealed, read_sealed
from arx_verifier.token import wire
from arx_verifier.token.macaroon import MINT_AUDIENCE

DIGEST_BYTES: Final = 32  # bytes at the end of a kept part
MAX_SHOWN: Final = 20  # ranges of records in one message
_AT_ONCE: Final = 500  # stretches in one query
FindKey = Callable[[str, str], PublicKey | None]
Progress = Callable[[int, int], None]  # receives how many are done, of how many
_NODE: Final = (NODE.c.kind, NODE.c.ref, NODE.c.name, NODE.c.agent)
_ROWS: Final = (
    select(*RECORD.c, SOURCE.c.verifier, SOURCE.c.boot, SOURCE.c.audience, NODE.c.key.label("place"), *_NODE)
    .outerjoin(SOURCE, SOURCE.c.id == RECORD.c.source)
    .outerjoin(NODE, NODE.c.id == RECORD.c.node)
    .order_by(RECORD.c.idx)
)


# The log answers questions from rows, and a person with access to the database can edit rows without touching a file or
# a signature.  So rows are compared with the files, and batches with their signed statements: the latter finds what was
# rewritten before the mint signed it.
class Rows:
    """Compares the database's rows with the log's files, block by block.

    Args:
        store: The log's database.
        reader: The log's files.
        head: The files' checkpoint, verified.

    Attributes:
        size: Number of signed records.
        blocks: Number of blocks of 256 records, the last one perhaps smaller.
    """

    def __init__(self, store: LogStore, reader: TileReader, head: Checkpoint) -> None:
        self.size, self.blocks = head.size, -(-head.size // WIDTH)
        self._store, self._reader, self._head, self._batches = store, reader, head, Reader()
        self._erasures = Erasures()

    def hold(self, block: int) -> None:
        """Require that the rows of a block of 256 are what was signed; pruned rows are skipped.

        Args:
            block: The block's number, from 0.

        Raises:
            IncompleteError: A file that this needs is missing.
            TamperedError: A row, or a file, is not what was signed.
            StoreError: The database did not answer.
        """
        found = list(self.wrong(block))
        if found:
            index, why = found[0]
            more = group_indexes(each for each, of in found[1:] if of == why)
            also = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in more[:MAX_SHOWN])
            same = f"; the same is true of {also}{', and others' if len(more) > MAX_SHOWN else ''}" if also else ""
            raise TamperedError(f"record {index} of the database {why}{same}", index)

    def wrong(self, block: int) -> Iterator[tuple[int, str]]:
        """Yield the index of each row of a block that is not what was signed, and why.

        Args:
            block: The block's number, from 0.

        Raises:
            IncompleteError: A file that this needs is missing.
            TamperedError: A file is not what was signed.
            StoreError: The database did not answer.
        """
        start, end = block * WIDTH, min(self.size, (block + 1) * WIDTH)
        leaves = self.leaves(block)
        first, read, stretches = self._read(start, end)
        rows = {row.idx: row for row in read}
        for index, leaf in enumerate(leaves, start) if first < end else ():
            row = rows.get(index)
            why = "is missing" if row is None else self._wrong(row, leaf)
            if why is None and row is not None and not stands(stretches, row):
                why = "is outside the stretch of its run"
            if why is None and row is not None and row.body is None and not self._may_lack_body(index):
                why = "has lost its body, and no record of an erasure names it"
            if why is not None:
                yield index, why

    def hold_first(self) -> None:
        """Require that the log's own records of pruning account for all pruned records.

        Raises:
            TamperedError: They account for fewer.
        """
        notes = select(RECORD.c.kept).where(RECORD.c.tool == PRUNED_KIND, RECORD.c.code == EVENT_CODE)
        with self._store.reading() as c:
            first = int(c.execute(select(STATE.c.first)).scalar_one())
            taken = [read_event(bytes(kept), None).named for kept in c.execute(notes).scalars()]
        # Without this, an attacker could delete the oldest rows and set `first`: no row would be left to compare.
        if first > max((int(note["last"]) + 1 for note in taken), default=0):
            message = f"the records before {first} are missing, and no record of pruning names them"
            raise TamperedError(message, 0, first - 1)

    def hold_erasures(self) -> None:
        """Require that erasures of an earlier version, which name no records, account for the bodies that are gone.

        Raises:
            TamperedError: They account for fewer.
        """
        with self._store.reading() as c:
            known = self._erasures = read_erasures(c)
            if not known.unlisted_before:
                return
            bare = select(RECORD.c.idx).where(RECORD.c.body.is_(None), RECORD.c.idx < known.unlisted_before)
            gone = sum(not known.name(index) for index in c.execute(bare).scalars())
        if gone > known.unlisted:
            message = f"{gone} bodies are gone, and the erasures that list no records account for {known.unlisted}"
            raise TamperedError(f"{message}: records before {known.unlisted_before}", 0, known.unlisted_before - 1)

    def leaves(self, block: int) -> list[bytes]:
        """Return the leaf hashes of a block, verified against the signed root.

        Args:
            block: The block's number, from 0.

        Raises:
            IncompleteError: A file that this needs is missing.
            TamperedError: A file is not what was signed.
        """
        leaves, index = self._reader.leaves(block), block * WIDTH
        try:  # the inclusion path of one leaf depends on all other leaves of its block
            check_inclusion(leaves[0], index, self._head.size, self._reader.inclusion(index), self._head.root)
        except TamperedError as error:
            last = index + len(leaves) - 1
            raise TamperedError(
                f"the files' hashes of the records {index} to {last} are not what was signed", index, last
            ) from error
        return leaves

    def records(self, block: int) -> list[bytes]:
        """Return the signed records of a block, from the files.

        Args:
            block: The block's number, from 0.

        Raises:
            IncompleteError: A record is missing in the files.
            TamperedError: The files are not what was signed.
        """
        verified = []
        pairs = zip(self._reader.records(block), self.leaves(block), strict=True)
        for index, (record, leaf) in enumerate(pairs, block * WIDTH):
            if record is None:
                raise IncompleteError(f"record {index} is missing in the files as well")
            if leaf_hash(record) != leaf:
                raise TamperedError(f"record {index} of the files is not what was signed", index)
            verified.append(record)
        return verified

    def hold_files(self, block: int) -> None:
        """Require that the files of a block are what was signed: its hashes, and its records unless pruned.

        Args:
            block: The block's number, from 0.

        Raises:
            IncompleteError: A file is missing.
            TamperedError: A file is not what was signed.
            StoreError: The database did not answer.
        """
        try:
            self.records(block)
        except IncompleteError:
            # The database is read after the files: pruning marks the records there before it removes a bundle.
            if block >= self._store.first() // WIDTH:
                raise
            self.leaves(block)

    def tree(self, size: int) -> Frontier:
        """Return the tree of the first ``size`` signed records.

        Args:
            size: A number of records, at most that of the checkpoint.

        Raises:
            IncompleteError: A file that this needs is missing.
            TamperedError: The files are not what was signed.
        """
        if self._reader.root() != self._head.root:
            raise TamperedError("the files are not what was signed")
        return Frontier(size, edge_of(self._reader.subtree, size))

    def _read(self, start: int, end: int) -> tuple[int, Sequence[Any], Sequence[Any]]:
        with self._store.reading() as c:
            rows: Sequence[Any] = c.execute(_ROWS.where(RECORD.c.idx >= start, RECORD.c.idx < end)).all()
            below = select(func.max(BATCH.c.idx)).where(BATCH.c.idx <= start).scalar_subquery()
            stretches = c.execute(
                select(*BATCH.c).where(BATCH.c.idx >= func.coalesce(below, start), BATCH.c.idx < end)
            ).all()
            # Read last: rows that retention prunes meanwhile are then not reported as missing.
            return int(c.execute(select(STATE.c.first)).scalar_one()), rows, stretches

    def _may_lack_body(self, index: int) -> bool:
        """Return whether a record of the log accounts for a body that is gone."""
        if not self._erasures.allow(index):
            # Read after the row: the record of an erasure is in the transaction that erased the body.
            with self._store.reading() as c:
                self._erasures = read_erasures(c)
        return self._erasures.allow(index)

    def _wrong(self, row: Any, leaf: bytes) -> str | None:
        kept, body = bytes(row.kept), None if row.body is None else bytes(row.body)
        # In this order: what is below the leaf hash is authentic only once the hash matches.
        if leaf_hash(kept) != leaf:
            return "is not what was signed"
        if body is not None and sha256(body).digest() != kept[-DIGEST_BYTES:]:
            return "has a body that is not the one that its leaf names"
        try:
            run, entry = read_filed(kept, body, lambda *_: str(row.audience), self._batches)
        except (AuditError, RequestError):
            return "is indexed as another run's"
        # The columns that answer questions are compared with the signed record: an edited column would hide a record
        # from a query, although every signature still verifies.
        recorded = (entry.at_ms, entry.outcome, entry.code, entry.tool)
        matches = recorded == (row.at_ms, row.outcome, row.code, row.tool) and run.verifier == row.verifier
        if run.verifier != LOG:  # the log's own events have no sequence
            matches = matches and (*run, entry.sequence) == (row.verifier, row.boot, row.audience, row.sequence)
        if not is_event(kept) and body is not None:
            matches = matches and entry.place.key == bytes(row.place or b"")
        elif not is_event(kept):  # the node's key covers the person, who was erased with the body
            node = tuple(map(asked_by, (*entry.place.steps[-1], entry.place.agent)))
            matches = matches and node == (row.kind, row.ref, row.name, row.agent)
        return None if matches else "is indexed by something that its record does not contain"


class RecordSource(NamedTuple):
    """The source of a record.

    Attributes:
        verifier: The verifier's id.
        boot: The verifier's run.
        audience: The service.
    """

    verifier: str
    boot: str
    audience: str


def read_filed(
    kept: bytes, body: bytes | None, audience_of: Callable[[str, str], str], reader: Reader
) -> tuple[RecordSource, LogEntry]:
    """Return the source of a record and the entry that indexes it.

    Args:
        kept: The leaf.
        body: Its body, or None; without it the entry's place names no person.
        audience_of: Returns the audience of a verifier's run, which records of unauthenticated calls do not contain.
        reader: Parses decisions.

    Raises:
        AuditError: ``kept`` is no record.
        RequestError: ``body`` is not the body of ``kept``.
    """
    if is_event(kept):
        event = read_event(kept, None)
        verifier, _, boot = event.source.partition("/")
        audience, place = "", place_of_event(event.by, event.named)
        if event.kind == LOST:
            audience = str(event.named.get("audience", ""))
            place = RecordPlace((PlaceStep(SERVICE, audience, audience),))
        filed = (event.number, event.at, place, outcome_of_event(event.kind), EVENT_CODE, event.kind)
        return RecordSource(verifier, boot, audience), LogEntry(*filed, kept, body)
    record = read_sealed(kept, None)
    facts, call = record.facts, record.call
    run = RecordSource(record.verifier, record.boot, facts.audience or audience_of(record.verifier, record.boot))
    if body is not None:
        sealed = (Sealed(kept, body),)
        return run, reader.read(
            Batch(run.verifier, run.audience, run.boot, record.sequence, None, sealed, closed=False)
        )[0]
    place = place_of(facts, None, run.audience)
    tool = asked_by(call.tool)
    return run, LogEntry(record.sequence, call.at, place, outcome_of(call), call.code, tool, kept, None)


def rows_of(store: LogStore, folder: Path, key: VerifierKey | LogKeys) -> Rows:
    """Return the comparison of a database's rows with a folder's files.

    Args:
        store: The log's database.
        folder: The log's files.
        key: The log's key, or its keys, obtained out of band.

    Raises:
        IncompleteError: The folder has no checkpoint.
        NoteError: Its checkpoint is malformed.
        TamperedError: Its checkpoint is not signed by this key.
    """
    raw = fetch_from(folder)(CHECKPOINT)
    # The key comes from the caller: one that is read beside the files proves nothing about them.
    if raw is None:
        raise IncompleteError(f"{folder} has no checkpoint: nothing shows what was signed")
    head = open_checkpoint(raw, key).checkpoint
    return Rows(store, TileReader(fetch_from(folder), head.size), head)


def check_rows(rows: Rows, progress: Progress = lambda *_: None) -> None:
    """Require that all rows are what was signed.

    Args:
        rows: The rows and files.
        progress: Called after each block with how many records are done, of how many.

    Raises:
        IncompleteError: A file that this needs is missing.
        TamperedError: The first row that is not what was signed.
        StoreError: The database did not answer.
    """
    rows.hold_first()
    rows.hold_erasures()
    for block in range(rows.blocks):
        rows.hold(block)
        progress(min((block + 1) * WIDTH, rows.size), rows.size)


class Answered(NamedTuple):
    """How many batches match their signed statements.

    Attributes:
        held: Batches whose service signed for exactly these records.
        unknown: Batches that cannot be verified: the statement is missing, the key is not enrolled any more, or some
            records were pruned.
        recovered: Batches restored from the files, as the log's own record says: their statements were only in the lost
            database.
    """

    held: int
    unknown: int
    recovered: int


def check_batches(store: LogStore, size: int, find_key: FindKey, progress: Progress = lambda *_: None) -> Answered:
    """Verify all batches of services against the statements that the services signed.  LOG 2.2.

    Args:
        store: The log's database.
        size: Index after the last record to verify.
        find_key: Returns the key that a holder (``service:<audience>``) enrolled under a thumbprint, or None.
        progress: Called now and then with how many records are done, of how many.

    Returns:
        The number of batches by result.

    Raises:
        TamperedError: A batch's records are not those that its service signed for.
        StoreError: The database did not answer.
    """
    of, counts, after = SOURCE.c.audience.not_in(("", MINT_AUDIENCE)), Counter[str | None](), -1
    # Read from the log's own records, so that a database edited by hand cannot excuse its missing statements.
    recovered = _recovered(store)
    which = select(BATCH.c.idx, BATCH.c.source, BATCH.c.statement).join(SOURCE, SOURCE.c.id == BATCH.c.source)
    while True:
        query = which.where(of, BATCH.c.idx > after, BATCH.c.idx < size).order_by(BATCH.c.idx).limit(_AT_ONCE)
        # A transaction for each page: one over the whole check would keep SQLite from truncating its write-ahead log.
        with store.reading() as c:
            stretches = c.execute(query).all()
        if not stretches:
            return Answered(counts["held"], counts["unknown"], counts["recovered"])
        for row in stretches:
            if row.statement is None:
                counts[_without_statement(store, row.idx, recovered)] += 1
            else:
                counts["held" if _answers(store, row, find_key) else "unknown"] += 1
        after = stretches[-1].idx
        progress(after, size)


def _recovered(store: LogStore) -> list[range]:
    """Return the ranges of records that were restored from the files."""
    notes = select(RECORD.c.kept).where(RECORD.c.tool == RECOVERED, RECORD.c.code == EVENT_CODE)
    with store.reading() as c:
        named = [read_event(bytes(kept), None).named for kept in c.execute(notes).scalars()]
    return [range(int(note["first"]), int(note["last"]) + 1) for note in named]


def _without_statement(store: LogStore, index: int, recovered: Sequence[range]) -> str | None:
    """Return the result for a stretch without a statement; None for the log's own events."""
    row = store.record(index)
    if row is not None and is_event(bytes(row.kept)):
        return None
    return "recovered" if any(index in indexes for indexes in recovered) else "unknown"


def _answers(store: LogStore, row: Any, find_key: FindKey) -> bool:
    """Return whether a stretch is what its service signed for; False if that cannot be verified."""
    missing: list[str] = []

    def find(holder: str, kid: str) -> PublicKey | None:
        key = find_key(holder, kid)
        # A key that was removed since makes a statement unverifiable; a wrong signature by a known key is tampering.
        missing.extend([] if key else [kid])
        return key

    try:
        signed = read_statement(bytes(row.statement).decode(errors="replace"), find).claims
    except GrantError as error:
        if missing:
            return False
        raise TamperedError(
            f"the statement for record {row.idx} is not signed by its service: {error}", row.idx
        ) from None
    # The range that the service signed, and not the stretch's own: an attacker could shorten that to hide the end.
    first, last = int(signed.get("first", 0)), int(signed.get("last", 0))
    with store.reading() as c:
        kept_by = logged(c, row.source, first, last)
        pruned = c.execute(select(STATE.c.first)).scalar_one() > 0
    # Pruned records cannot be hashed again.  That is unknown, and not an accusation.
    if pruned and len(kept_by) < last - first + 1:
        return False
    root = Frontier.of(leaf_hash(kept_by.get(sequence, b"")) for sequence in range(first, last + 1)).root()
    if wire.text_of(root) != signed.get("root"):
        raise TamperedError(
            f"the records {first} to {last} of the batch at {row.idx} are not those that their service signed for",
            row.idx,
        )
    return True


def stands(stretches: Sequence[Any], row: Any) -> bool:
    """Return whether a row is at the place that its run's stretch gives it.

    Args:
        stretches: Rows of ``BATCH`` around the row.
        row: A row of ``RECORD``.
    """
    # A record is found by its id through the stretch of its run: a wrong stretch would hide it.
    covering = [run for run in stretches if run.idx <= row.idx <= run.idx + run.last - run.first]
    return any((run.source, run.first + row.idx - run.idx) == (row.source, row.sequence) for run in covering)
