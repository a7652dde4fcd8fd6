# SPDX-License-Identifier: Apache-2.0
"""Put batches into the log: those that wait for it at one time together, in one transaction.  SPEC 18.3.

A transaction costs a wait for the disk, and writes pages that the next one writes again.  So a batch that was read
stands in a line, and whoever has the log takes all that stand there; nobody is answered before that was committed.

What comes a second time is compared with what the log has of it: whoever stole a service's key can send records in its
name, and a machine that was resumed twice from one image gives its numbers to two calls each.  What differs is refused.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from arx_caps.audit.bulk import read_leaves
from arx_caps.audit.entries import Entry, is_event, make_loss
from arx_caps.audit.errors import DisputedError
from arx_caps.audit.tables import BATCH, STATE
from arx_caps.audit.tree import leaf_hash
from arx_caps.audit.wire import Batch
from arx_caps.audit.writing import Writing
from arx_verifier.errors import ArxError, StoreError

TOGETHER: Final = 4000  # records of one transaction; the batch that goes beyond it is its last


class Taking:
    """A batch that was read, on its way into the log.

    Args:
        batch: The batch.
        entries: Its records, read.
        statement: Its service's statement; None for the mint's own.
        leaves: The hashes of its records' leaves, where they are known already.

    Attributes:
        found: The high-water mark of its run, once that was committed; why it was not taken, until then.
    """

    def __init__(
        self, batch: Batch, entries: Sequence[Entry], statement: str | None, leaves: Sequence[bytes] | None
    ) -> None:
        self._batch, self.entries, self._leaves = batch, entries, leaves
        self._statement = None if statement is None else statement.encode()
        self.found: int | ArxError = StoreError("the batch was not taken; send it again")

    def put(self, log: Writing) -> int | DisputedError:
        """Put in what is new of it, wholly or not at all; return the high-water mark, or why it changed nothing."""
        batch, entries, leaves = self._batch, self.entries, self._leaves
        source = log.source(batch.verifier, batch.boot, batch.audience)
        mark, lost = source.high_water, 0
        if entries and batch.first <= mark:
            try:
                _hold_to_logged(log.connection, source.id, entries[: mark + 1 - batch.first])
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


class Line:
    """Where batches stand until the log is theirs.  Threads share it.

    Args:
        writing: Holds the log and changes it in one transaction.
    """

    def __init__(self, writing: Callable[[], AbstractContextManager[Writing]]) -> None:
        self._writing, self._lock = writing, threading.Lock()
        self._waiting: deque[Taking] = deque()

    def stand(self, one: Taking) -> None:
        """Put a batch at the end of the line."""
        self._waiting.append(one)

    def take(self, one: Taking) -> int:
        """Take a batch that stands there, with those before and behind it, unless somebody took it along.

        Returns:
            The high-water mark of its run.

        Raises:
            ArxError: It was not taken.
        """
        with self._lock:
            while one in self._waiting:
                self._take(self._next())
        if isinstance(one.found, ArxError):
            raise one.found
        return one.found

    def _next(self) -> list[Taking]:
        some, records = [self._waiting.popleft()], 0
        while self._waiting and (records := records + len(some[-1].entries)) < TOGETHER:
            some.append(self._waiting.popleft())
        return some

    def _take(self, some: Sequence[Taking]) -> None:
        found: Sequence[int | ArxError]
        try:
            with self._writing() as log:
                found = [each.put(log) for each in some]
        except ArxError as error:
            if len(some) > 1 and not isinstance(error, StoreError):  # what one says cannot be kept; others' can
                for each in some:
                    self._take([each])
                return
            found = [error] * len(some)
        for each, outcome in zip(some, found, strict=True):  # committed
            each.found = outcome


def logged(connection: Connection, source: int, first: int, last: int) -> dict[int, bytes]:
    """Return the kept parts that the log has of a source, by sequence, from ``first`` to ``last``.

    Of what was declared lost only the end is there: the record that says so.
    """
    of = BATCH.c.source == source
    start = connection.execute(select(func.max(BATCH.c.first)).where(of, BATCH.c.first <= first)).scalar() or first
    stretches = select(BATCH.c.idx, BATCH.c.first, BATCH.c.last).where(of, BATCH.c.first.between(start, last))
    found = {}
    for idx, begins, ends in connection.execute(stretches).all():
        some = max(begins, first), min(ends, last)
        for index, kept in read_leaves(connection, idx + some[0] - begins, idx + some[1] - begins + 1):
            found[begins + index - idx] = bytes(kept)
    return found


def _hold_to_logged(connection: Connection, source: int, entries: Sequence[Entry]) -> None:
    """Compare records that came before with what the log has of them; what retention took cannot be compared.

    Raises:
        DisputedError: One is another, or was declared lost.
    """
    kept = logged(connection, source, entries[0].sequence, entries[-1].sequence)
    pruned = connection.execute(select(STATE.c.first)).scalar_one() > 0
    for entry in entries:
        held = kept.get(entry.sequence)
        if held == entry.kept or (held is None and pruned):
            continue
        lost = held is None or is_event(held)
        told = "was declared lost before it came" if lost else "is another one in the log"
        raise DisputedError(f"record {entry.sequence} of this run {told}", entry.sequence, leaf_hash(entry.kept))
