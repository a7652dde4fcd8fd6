# SPDX-License-Identifier: Apache-2.0
"""Bring a journal's records on the disk, for many that wait by one sync.  SPEC 12.

When a record is written, and to which file, is ``writer``'s to say; how one file is synced, ``segment``'s.
"""

import logging
import threading
from pathlib import Path

from arx_verifier.errors import AuditError
from arx_verifier.journal.segment import Segment

_log = logging.getLogger("arx_verifier.journal.writer")


class Durable:
    """What of a journal is on the disk: its mode ``durable``."""

    folder: Path
    _lock: threading.Lock
    _sync_lock: threading.Lock
    _segment: Segment | None
    _retired: list[Segment]
    _sequence: int
    _synced: int

    def _sync_last(self) -> None:
        """Bring what was written on the disk before its files are let go: some decision may still wait for that."""
        segments = [*self._retired, self._segment] if self._segment is not None else self._retired
        try:
            for segment in segments:
                segment.sync()
            self._synced = self._sequence
        except OSError:
            self._give_up(segments)
            _log.exception("the disk did not keep the last decisions of the journal %s", self.folder)

    def _sync(self, sequence: int, segment: Segment) -> None:
        """Wait until a record is on the disk; whoever comes first does it for all that wait behind it."""
        with self._sync_lock:
            # Asked of its own file: the next sync, of another one, says nothing of a record that the disk did not keep.
            if segment.unkept:
                raise AuditError("the decision journal was not kept by the disk")
            if self._synced >= sequence:
                return
            with self._lock:
                retired, written = self._retired, self._sequence
                open_ones = [*retired, self._segment] if self._segment is not None else retired
                self._retired = []
            try:
                for each in open_ones:
                    each.sync()
            except OSError as error:
                with self._lock:
                    self._give_up(open_ones)
                raise AuditError(f"the decision journal was not kept by the disk: {error.strerror}") from error
            self._synced = written
            for each in retired:
                each.close()

    def _give_up(self, segments: list[Segment]) -> None:
        """Leave files that a sync failed for: what it left behind is unknown.  The next decision starts a new one."""
        for each in segments:
            each.unkept = True
            each.abandon()
        self._retired = [each for each in self._retired if each not in segments]
        if self._segment in segments:
            self._segment = None
