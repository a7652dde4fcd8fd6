# SPDX-License-Identifier: Apache-2.0
"""Put batches into the log: those that wait for it at one time together, in one transaction.  SPEC 18.3.

A transaction costs a wait for the disk, and writes pages that the next one writes again.  So a batch that was read
stands in a line, and whoever has the log takes all that stand there; nobody is answered before that was committed.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from arx_caps.audit.disputes import hold_to_logged
from arx_caps.audit.entries import Entry, make_loss
from arx_caps.audit.errors import DisputedError
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
                hold_to_logged(log.connection, source.id, entries[: mark + 1 - batch.first])
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
