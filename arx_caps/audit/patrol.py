# SPDX-License-Identifier: Apache-2.0
"""Hold all rows to the signed files again and again, a few at a time, as long as the mint runs.  SPEC 17.11."""

import time
from typing import Final

from arx_caps.audit.publish import Publisher
from arx_caps.audit.rows import Rows
from arx_caps.audit.store import LogStore

BLOCKS: Final = 4  # at a time; about 20 ms, once a second: ten million records in three hours
PAUSE_S: Final = 0.9  # however often the mint signs
REST_S: Final = 600.0  # between two rounds


class Patrol:
    """Goes round the rows of one log; for one thread.

    Args:
        store: The log's database.
        publisher: Who signs it.
    """

    def __init__(self, store: LogStore, publisher: Publisher) -> None:
        self._store, self._publisher = store, publisher
        self._next, self._rests_until = 0, 0.0

    def step(self) -> None:
        """Hold some more rows.

        Raises:
            IncompleteError: A file that this needs is not there.
            TamperedError: A row or a file is not what was signed.
            NoteError: The files' checkpoint is none of this log.
            StoreError: The database did not answer.
        """
        head = self._publisher.published() if time.monotonic() >= self._rests_until else None
        if head is None:
            return
        rows = Rows(self._store, self._publisher.files(head.size), head)
        for block in range(self._next, min(self._next + BLOCKS, rows.blocks)):
            rows.hold(block)
            self._next = block + 1
        done = self._next >= rows.blocks
        self._next, rest = (0, REST_S) if done else (self._next, PAUSE_S)
        self._rests_until = time.monotonic() + rest
