# SPDX-License-Identifier: Apache-2.0
"""A check of all rows of the log's database against the signed files, at an operator's request.  LOG 1.11.

The mint checks some rows a second all the time; this is one round, as fast as half a core allows.
"""

import threading
import time
from typing import Final, Literal, NamedTuple, TypeAlias

from arx_caps.audit.integrity.check import Rows
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.paths import WIDTH
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, AuditError

_JOIN_S: Final = 5.0
CheckOutcome: TypeAlias = Literal["never", "running", "holds", "tampered", "failed", "stopped"]


class CheckState(NamedTuple):
    """The last check, or the one that runs.

    Attributes:
        outcome: How it ended, ``running``, or ``never`` before the first one.
        size: Number of signed records that it is about.
        done: Number of records that were checked.
        by: The operator who asked for it.
        started_ms: Its start, ms since the Unix epoch; 0 before the first one.
        ended_ms: Its end; None while it runs.
        problem: What differs, or why it stopped; empty otherwise.
    """

    outcome: CheckOutcome = "never"
    size: int = 0
    done: int = 0
    by: str = ""
    started_ms: int = 0
    ended_ms: int | None = None
    problem: str = ""


class RowCheck:
    """Checks the rows of a mint's log, once at a time.  Threads may share it.

    Args:
        store: The log's database.
        publisher: Signs the log; a row that differs halts it.
    """

    def __init__(self, store: LogStore, publisher: Publisher) -> None:
        self._store, self._publisher = store, publisher
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.state = CheckState()

    def start(self, by: str) -> CheckState:
        """Begin a check, unless one runs.

        Args:
            by: The operator.

        Raises:
            AuditError: Nothing is signed yet, or the files are being rebuilt.
        """
        with self._lock:
            if self.state.outcome == "running":
                return self.state
            head = self._publisher.published()
            if head is None or not self._publisher.made:
                raise AuditError("the log's files are not complete yet; ask again in some seconds")
            rows = Rows(self._store, self._publisher.files(head.size), head)
            self.state = CheckState("running", rows.size, 0, by, now_ms())
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, args=(rows,), name="arx-mint-log-check", daemon=True)
            self._thread.start()
            return self.state

    def stop(self) -> None:
        """End a check that runs, and wait for its thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _run(self, rows: Rows) -> None:
        try:
            rows.hold_first()
            rows.hold_erasures()
            for block in range(rows.blocks):
                began = time.monotonic()
                rows.hold_files(block)
                self._hold(rows, block)
                self.state = self.state._replace(done=min(rows.size, (block + 1) * WIDTH))
                if self._stop.wait(time.monotonic() - began):  # calls get the other half of the core
                    self._end("stopped", "the mint was stopped")
                    return
        except TamperedError as error:
            self._end("tampered", str(error))
        except ArxError as error:
            self._end("failed", str(error))
        except OSError as error:
            self._end("failed", f"a file of the log cannot be read: {error.strerror or error}")
        else:
            self.state = self.state._replace(done=rows.size)
            self._end("holds")

    def _hold(self, rows: Rows, block: int) -> None:
        try:
            rows.hold(block)
        except TamperedError as error:
            self._publisher.halt(error)
            raise
        except IncompleteError:
            self._publisher.remake()
            raise

    def _end(self, outcome: CheckOutcome, problem: str = "") -> None:
        self.state = self.state._replace(outcome=outcome, ended_ms=now_ms(), problem=problem)
