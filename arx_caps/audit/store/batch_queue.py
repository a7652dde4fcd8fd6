# SPDX-License-Identifier: Apache-2.0
"""Append batches to the log: a queue, and one transaction for all batches that wait in it.  LOG 2.3."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import LogEntry, is_event, make_loss
from arx_caps.audit.merkle.errors import DisputedError
from arx_caps.audit.merkle.tree import leaf_hash
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.store.bulk import read_leaves
from arx_caps.audit.store.tables import BATCH, STATE
from arx_caps.audit.store.transaction import Writing
from arx_verifier.errors import ArxError, StoreError

TOGETHER: Final = 4000  # records in one transaction; the batch that exceeds it is its last


class Taking:
    """A parsed batch that waits to be appended.

    Args:
        batch: The batch.
        entries: Its records, parsed.
        statement: Its service's statement; None for the mint's own records.
        leaves: The hashes of its records' leaves, if the caller has them.

    Attributes:
        found: The high-water mark of its run after the commit; until then, the error of a batch that was not appended.
    """

    def __init__(
        self, batch: Batch, entries: Sequence[LogEntry], statement: str | None, leaves: Sequence[bytes] | None
    ) -> None:
        self._batch, self.entries, self._leaves = batch, entries, leaves
        self._statement = None if statement is None else statement.encode()
        self.found: int | ArxError = StoreError("the batch was not taken; send it again")

    def put(self, log: Writing) -> int | DisputedError:
        """Append the new records of the batch, all or none.

        Returns:
            The high-water mark of its run, or why nothing was changed.
        """
        batch, entries, leaves = self._batch, self.entries, self._leaves
        source = log.source(batch.verifier, batch.boot, batch.audience)
        mark, lost = source.high_water, 0
        if entries and batch.first <= mark:
            # A thief of a service's key can send records in its name, and a machine that was resumed twice from one
            # image numbers two calls alike: records that came before are compared with the log's.
            try:
                _compare_logged(log.connection, source.id, entries[: mark + 1 - batch.first])
            except DisputedError as error:
                return error
        if batch.lost_from is not None and batch.lost_from <= mark + 1 < batch.first:
            lost = batch.first - 1 - mark
            log.append(source, [make_loss(batch, mark + 1, log.now_ms)])
            mark = batch.first - 1
        had = mark + 1 - batch.first
        if had >= 0 and entries[had:]:
            log.append(source, entries[had:], self._statement, None if leaves is None else leaves[had:])
            mark = batch.last
        log.mark(source, mark, lost=lost, closed=batch.closed and mark == batch.last)
        return mark


# A transaction waits for the disk, and writes pages that the next one writes again.  So the thread that gets the log
# appends all waiting batches.  A sender is answered after the commit.
class BatchQueue:
    """The queue of batches to append.  Threads may share it.

    Args:
        writing: Locks the log for one transaction.
    """

    def __init__(self, writing: Callable[[], AbstractContextManager[Writing]]) -> None:
        self._writing, self._lock = writing, threading.Lock()
        self._waiting: deque[Taking] = deque()

    def stand(self, taking: Taking) -> None:
        """Append a batch to the queue."""
        self._waiting.append(taking)

    def take(self, taking: Taking) -> int:
        """Append a queued batch to the log, together with the others in the queue, unless another thread has.

        Returns:
            The high-water mark of its run.

        Raises:
            ArxError: It was not appended.
        """
        with self._lock:
            while taking in self._waiting:
                self._take(self._next())
        if isinstance(taking.found, ArxError):
            raise taking.found
        return taking.found

    def _next(self) -> list[Taking]:
        group, records = [self._waiting.popleft()], 0
        while self._waiting and (records := records + len(group[-1].entries)) < TOGETHER:
            group.append(self._waiting.popleft())
        return group

    def _take(self, group: Sequence[Taking]) -> None:
        results: Sequence[int | ArxError]
        try:
            with self._writing() as log:
                results = [taking.put(log) for taking in group]
        except ArxError as error:
            if len(group) > 1 and not isinstance(error, StoreError):  # one batch cannot be stored; the others can
                for taking in group:
                    self._take([taking])
                return
            results = [error] * len(group)
        for taking, result in zip(group, results, strict=True):  # the transaction was committed, or has failed
            taking.found = result


def logged(connection: Connection, source: int, first: int, last: int) -> dict[int, bytes]:
    """Return the kept parts of a source's records in the log, by sequence.

    Of lost records only the last sequence is present: its record declares the loss.

    Args:
        connection: A transaction that reads the log.
        source: The source's id.
        first: The first sequence.
        last: The last sequence.
    """
    of = BATCH.c.source == source
    start = connection.execute(select(func.max(BATCH.c.first)).where(of, BATCH.c.first <= first)).scalar() or first
    stretches = select(BATCH.c.idx, BATCH.c.first, BATCH.c.last).where(of, BATCH.c.first.between(start, last))
    by_sequence = {}
    for idx, begins, ends in connection.execute(stretches).all():
        low, high = max(begins, first), min(ends, last)
        for index, kept in read_leaves(connection, idx + low - begins, idx + high - begins + 1):
            by_sequence[begins + index - idx] = bytes(kept)
    return by_sequence


def _compare_logged(connection: Connection, source: int, entries: Sequence[LogEntry]) -> None:
    """Compare records with the log's at the same sequences; pruned records are skipped.

    Raises:
        DisputedError: The log has another record, or a loss.
    """
    kept = logged(connection, source, entries[0].sequence, entries[-1].sequence)
    pruned = connection.execute(select(STATE.c.first)).scalar_one() > 0
    for entry in entries:
        held = kept.get(entry.sequence)
        if held == entry.kept or (held is None and pruned):
            continue
        lost = held is None or is_event(held)
        why = "was declared lost before it came" if lost else "is another one in the log"
        raise DisputedError(f"record {entry.sequence} of this run {why}", entry.sequence, leaf_hash(entry.kept))
