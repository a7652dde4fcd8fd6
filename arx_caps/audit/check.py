# SPDX-License-Identifier: Apache-2.0
"""Hold the log's database to what was signed: questions are answered from rows, and rows can be edited.  SPEC 17.11.

Whoever keeps the database can change what a question finds without touching a file or a signature.  Each row has to be
the leaf at its place, with the body that it names, and filed as what it says: by time, outcome, tool and run, and a
decision by whom it is about.  A batch has to be what its service signed for (SPEC 18.2): that finds what was rewritten
before the mint signed it.  How rows are filed belongs to the schema of ``tables``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select

from arx_caps.audit.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.entries import (
    EVENT_CODE,
    LOG,
    LOST,
    PRUNED_KIND,
    RECOVERED,
    Entry,
    Reader,
    is_event,
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
from arx_caps.audit.tables import BATCH, NODE, RECORD, SOURCE, STATE, asked_by
from arx_caps.audit.taking import logged
from arx_caps.audit.tiles import TileReader, fetch_from
from arx_caps.audit.tree import Frontier, check_inclusion, edge_of, leaf_hash
from arx_caps.audit.wire import Batch, read_statement
from arx_caps.keyfile import PublicKey
from arx_verifier.errors import AuditError, GrantError, RequestError
from arx_verifier.journal.record import Sealed, read_sealed
from arx_verifier.token import wire
from arx_verifier.token.macaroon import MINT_AUDIENCE

DIGEST_BYTES: Final = 32  # bytes at the end of a kept part
_AT_ONCE: Final = 500  # stretches of one look
FindKey = Callable[[str, str], PublicKey | None]
Told = Callable[[int, int], None]  # how many are done, of how many
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
            why = "is missing" if row is None else self._wrong(row, leaf)
            if why is None and row is not None and not stands(stretches, row):
                why = "is not in the stretch of its run"
            if why is not None:
                yield index, why

    def hold_first(self) -> None:
        """Hold what retention is said to have taken to the log's own records of it, which are rows like others.

        Raises:
            TamperedError: It took less.
        """
        notes = select(RECORD.c.kept).where(RECORD.c.tool == PRUNED_KIND, RECORD.c.code == EVENT_CODE)
        with self._store.reading() as c:
            first = int(c.execute(select(STATE.c.first)).scalar_one())
            taken = [read_event(bytes(kept), None).named for kept in c.execute(notes).scalars()]
        if first > max((int(each["last"]) + 1 for each in taken), default=0):
            raise TamperedError(f"the records before {first} are gone, and no record of the log says why", 0, first - 1)

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

    def records(self, block: int) -> list[bytes]:
        """Return the signed records of a block, from the files.

        Raises:
            IncompleteError: One of them is missing there.
            TamperedError: What the files have is not what was signed.
        """
        found = []
        pairs = zip(self._reader.records(block), self.leaves(block), strict=True)
        for index, (record, leaf) in enumerate(pairs, block * WIDTH):
            if record is None:
                raise IncompleteError(f"record {index} is missing in the files as well")
            if leaf_hash(record) != leaf:
                raise TamperedError(f"record {index} of the files is not what was signed", index)
            found.append(record)
        return found

    def hold_files(self, block: int) -> None:
        """Hold the files of a block to the signed root: its hashes, and its records unless retention took them.

        Raises:
            IncompleteError: One of them is not there.
            TamperedError: One of them is not what was signed.
            StoreError: The database did not answer.
        """
        try:
            self.records(block)
        except IncompleteError:
            # Asked after the files: a bundle goes only once the database says so.
            if block >= self._store.first() // WIDTH:
                raise
            self.leaves(block)

    def tree(self, size: int) -> Frontier:
        """Return the tree of the first ``size`` records that were signed.

        Raises:
            IncompleteError: A file that this needs is missing.
            TamperedError: The files do not give what was signed.
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
            # Last: what retention took in between is not missed.
            return int(c.execute(select(STATE.c.first)).scalar_one()), rows, stretches

    def _wrong(self, row: Any, leaf: bytes) -> str | None:
        kept, body = bytes(row.kept), None if row.body is None else bytes(row.body)
        if leaf_hash(kept) != leaf:
            return "is not what was signed"
        if body is not None and sha256(body).digest() != kept[-DIGEST_BYTES:]:
            return "has a body that is not the one it names"
        try:
            run, entry = read_filed(kept, body, lambda *_: str(row.audience), self._batches)
        except (AuditError, RequestError):
            return "is filed as another run's"
        said = (entry.at_ms, entry.outcome, entry.code, entry.tool)
        holds = said == (row.at_ms, row.outcome, row.code, row.tool) and run.verifier == row.verifier
        if run.verifier != LOG:  # what the log says of itself has no numbers of its own
            holds = holds and (*run, entry.sequence) == (row.verifier, row.boot, row.audience, row.sequence)
        if not is_event(kept) and body is not None:
            holds = holds and entry.place.key == bytes(row.place or b"")
        elif not is_event(kept):  # the person went with the body
            about = tuple(map(asked_by, (*entry.place.steps[-1], entry.place.agent)))
            holds = holds and about == (row.kind, row.ref, row.name, row.agent)
        return None if holds else "is filed as something that it does not say"


class Run(NamedTuple):
    """The source of a record."""

    verifier: str
    boot: str
    audience: str


def read_filed(
    kept: bytes, body: bytes | None, audience_of: Callable[[str, str], str], reader: Reader
) -> tuple[Run, Entry]:
    """Read how a record is filed: in which source, and as what.

    Args:
        kept: The leaf.
        body: Its body; without one nothing is known of a person.
        audience_of: Returns a run's audience, which records of what was not proven do not say themselves.
        reader: Reads decisions.

    Raises:
        AuditError: It is no record.
        RequestError: It is not its body's.
    """
    if is_event(kept):
        event = read_event(kept, None)
        verifier, _, boot = event.source.partition("/")
        audience, place = "", place_of_event(event.by, event.named)
        if event.kind == LOST:
            audience = str(event.named.get("audience", ""))
            place = Place((Step(SERVICE, audience, audience),))
        filed = (event.number, event.at, place, outcome_of_event(event.kind), EVENT_CODE, event.kind)
        return Run(verifier, boot, audience), Entry(*filed, kept, body)
    record = read_sealed(kept, None)
    facts, call = record.facts, record.call
    run = Run(record.verifier, record.boot, facts.audience or audience_of(record.verifier, record.boot))
    if body is not None:
        sealed = (Sealed(kept, body),)
        return run, reader.read(
            Batch(run.verifier, run.audience, run.boot, record.sequence, None, sealed, closed=False)
        )[0]
    place = place_of(facts, None, run.audience)
    tool = asked_by(call.tool)
    return run, Entry(record.sequence, call.at, place, outcome_of(call), call.code, tool, kept, None)


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


def check_rows(rows: Rows, progress: Told = lambda *_: None) -> None:
    """Hold all rows.

    Args:
        rows: The rows.
        progress: Called now and then with how many are done, of how many.

    Raises:
        IncompleteError: A file that this needs is missing.
        TamperedError: The first row that is not what was signed.
        StoreError: The database did not answer.
    """
    rows.hold_first()
    for block in range(rows.blocks):
        rows.hold(block)
        progress(min((block + 1) * WIDTH, rows.size), rows.size)


class Answered(NamedTuple):
    """How many batches hold.

    Attributes:
        held: Those whose service signed for exactly these records.
        unknown: Those of which that is not known: there is no statement, the key is not enrolled any more, or some of
            the records were taken by retention.
        recovered: Those that were taken back from the files, as the log says itself: what answered for them was in the
            database that was lost, and nowhere else.
    """

    held: int
    unknown: int
    recovered: int


def check_batches(store: LogStore, size: int, find_key: FindKey, progress: Told = lambda *_: None) -> Answered:
    """Hold all batches of services to what they signed for.

    Args:
        store: The log's database.
        size: Records from here on are not looked at.
        find_key: Returns the key that a holder (``service:<audience>``) enrolled under a thumbprint, or None.
        progress: Called now and then with how many records are done, of how many.

    Raises:
        TamperedError: A batch's records are not those that its service signed for.
        StoreError: The database did not answer.
    """
    of, found, after = SOURCE.c.audience.not_in(("", MINT_AUDIENCE)), Counter[str | None](), -1
    recovered = _recovered(store)
    which = select(BATCH.c.idx, BATCH.c.source, BATCH.c.statement).join(SOURCE, SOURCE.c.id == BATCH.c.source)
    while True:
        some = which.where(of, BATCH.c.idx > after, BATCH.c.idx < size).order_by(BATCH.c.idx).limit(_AT_ONCE)
        with store.reading() as c:
            stretches = c.execute(some).all()
        if not stretches:
            return Answered(found["held"], found["unknown"], found["recovered"])
        for row in stretches:
            if row.statement is None:
                found[_without_statement(store, row.idx, recovered)] += 1
            else:
                found["held" if _answers(store, row, find_key) else "unknown"] += 1
        after = stretches[-1].idx
        progress(after, size)


def _recovered(store: LogStore) -> list[range]:
    """Return which records were taken back from the files."""
    notes = select(RECORD.c.kept).where(RECORD.c.tool == RECOVERED, RECORD.c.code == EVENT_CODE)
    with store.reading() as c:
        named = [read_event(bytes(kept), None).named for kept in c.execute(notes).scalars()]
    return [range(int(each["first"]), int(each["last"]) + 1) for each in named]


def _without_statement(store: LogStore, index: int, recovered: Sequence[range]) -> str | None:
    """Return what a stretch without a statement is; None for a note of the log's own."""
    row = store.record(index)
    if row is not None and is_event(bytes(row.kept)):
        return None
    return "recovered" if any(index in each for each in recovered) else "unknown"


def _answers(store: LogStore, row: Any, find_key: FindKey) -> bool:
    """Return whether it can be told that a stretch is what its service signed for."""
    missing: list[str] = []

    def find(holder: str, kid: str) -> PublicKey | None:
        key = find_key(holder, kid)
        missing.extend([] if key else [kid])
        return key

    try:
        said = read_statement(bytes(row.statement).decode(errors="replace"), find).claims
    except GrantError as error:
        if missing:
            return False
        told = f"what answers for record {row.idx} is no statement of its service: {error}"
        raise TamperedError(told, row.idx) from None
    first, last = int(said.get("first", 0)), int(said.get("last", 0))
    with store.reading() as c:
        kept_by = logged(c, row.source, first, last)
        pruned = c.execute(select(STATE.c.first)).scalar_one() > 0
    if pruned and len(kept_by) < last - first + 1:
        return False
    root = Frontier.of(leaf_hash(kept_by.get(sequence, b"")) for sequence in range(first, last + 1)).root()
    if wire.text_of(root) != said.get("root"):
        told = f"the records {first} to {last} of the batch at {row.idx} are not those that their service signed for"
        raise TamperedError(told, row.idx)
    return True


def stands(stretches: Sequence[Any], row: Any) -> bool:
    """Tell whether a row stands where its run's stretch has it: that is how it is found by its id."""
    held = [each for each in stretches if each.idx <= row.idx <= each.idx + each.last - each.first]
    return any((each.source, each.first + row.idx - each.idx) == (row.source, row.sequence) for each in held)
