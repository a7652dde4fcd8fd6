# SPDX-License-Identifier: Apache-2.0
"""Read a decision journal's runs for shipping: next records, lost records, files to remove.  LOG 2.

A journal is the folder of a verifier's decision journal.  ``shipper`` sends what this module reads.
"""

import contextlib
import logging
import time
from collections import deque
from pathlib import Path
from typing import Final

from arx_caps.audit.merkle.tree import leaf_hash
from arx_caps.audit.shipping.batch import MAX_KEPT, Batch
from arx_verifier.errors import AuditError
from arx_verifier.journal.liveness import is_written
from arx_verifier.journal.reader import Damage, SegmentReader
from arx_verifier.journal.record import Sealed, seal
from arx_verifier.journal.segment import HEADER_BYTES, SegmentHeader, files_in, is_last, read_header

AT_ONCE: Final = 500  # records in a batch
BATCH_BYTES: Final = 1024 * 1024  # a batch ends with the record that exceeds it
DAMAGED: Final = ".damaged"  # suffix of a file that could not be read in full, once all other records of it were sent

_log = logging.getLogger(__name__)


# Nothing is remembered between starts: the mint answers how far it has a run, and every file is read again from its
# beginning with its checksums.  A record that is unreadable or missing is declared lost, never skipped silently.
class JournalRun:
    """One run of one verifier: its files, and how far they were sent.

    Attributes:
        verifier: The verifier's id.
        audience: Its service.
        boot: The run's id.
        next: The sequence that the mint wants next; None until it has answered.
        over: Whether everything was sent, unless another file appears.
    """

    def __init__(self, header: SegmentHeader, at_once: int = AT_ONCE) -> None:
        self.verifier, self.audience, self.boot = header.verifier, header.audience, header.boot
        self._at_once = at_once
        self.next: int | None = None
        self.over = False
        self._files: dict[Path, SegmentReader] = {}
        self._damaged: set[Path] = set()
        self._ahead: deque[tuple[int, Sealed | None]] = deque()  # read and not acknowledged; None: unreadable
        self._sent_end = False

    def add(self, path: Path, header: SegmentHeader) -> None:
        """Add a file of this run.

        Args:
            path: The file.
            header: Its header.
        """
        self._files[path] = SegmentReader(path, header, self._on_damage)
        self._files = dict(sorted(self._files.items(), key=lambda item: item[1].first))
        self.over = False

    def batch(self) -> Batch | None:
        """Return the next batch to send, or None; the same batch until ``acknowledge``."""
        if self.next is None:
            first = next(iter(self._files.values())).first if self._files else 1
            return self._make(first, None, (), closed=False)  # an empty batch asks how far the mint is
        if self.over:
            return None
        self._read(self._at_once)
        while self._ahead and self._ahead[0][1] is None:
            self._ahead.popleft()
        wanted = self.next
        first = self._ahead[0][0] if self._ahead else max(wanted, self._known_to if self._ended else wanted)
        records = self._contiguous(first)
        done = self._ended and len(records) == len(self._ahead)
        closed = done and self._in_order() and not self._sent_end
        if not records and not closed and first == wanted:
            self.over = done
            return None
        return self._make(first, wanted if first > wanted else None, records, closed=closed)

    def doubt(self, high_water: int, leaf: str) -> str | None:
        """Compare the mint's high-water mark with the local records, to detect impersonation.

        Args:
            high_water: The mint's mark: the sequence of its last record of this run.
            leaf: The hash of the mint's record there, hex, or empty.

        Returns:
            Why the mint's record cannot be this run's, or None.
        """
        held = [path for path, reader in self._files.items() if reader.first <= high_water]
        if not held:
            return None  # the local records are all later
        path = held[-1]
        for sequence, payload in SegmentReader(path, self._files[path].header, lambda _: None).payloads():
            if sequence == high_water:
                own = self._seal(path, sequence, payload)
                same = own is None or leaf in ("", leaf_hash(own.kept).hex())
                return None if same else f"the mint has another record {sequence} of run {self.boot}"
        if path != next(reversed(self._files)):
            return None  # its end was lost
        if _is_alive(path):
            return f"the mint has a record {high_water} of run {self.boot}, which this run never wrote"
        self._on_damage(Damage(path, 0, f"it ends before record {high_water}, which the mint has"))
        return None

    def following(self, batch: Batch) -> Batch | None:
        """Return a full batch to send after ``batch`` before that is acknowledged, or None.

        Args:
            batch: The batch that was sent last.
        """
        if self.next is None or len(batch.records) < self._at_once:
            return None
        self._read(batch.last + 1 - self.next + self._at_once)
        records = self._contiguous(batch.last + 1)
        full = len(records) == self._at_once
        return self._make(batch.last + 1, None, records, closed=False) if full else None

    def acknowledge(self, batch: Batch, high_water: int) -> bool:
        """Continue after ``high_water``, the mint's answer to a batch.

        Args:
            batch: The batch that was sent.
            high_water: The sequence of the mint's last record of this run.

        Returns:
            Whether the mint took the whole batch.
        """
        if self.next is not None and high_water > batch.last:
            self.next = None  # another process ships this run as well: ask the mint again what it has
            self._rewind()
            return True
        before, self.next = self.next, high_water + 1
        if batch.closed and high_water >= batch.last:
            self._sent_end = True
        if before is not None and self.next < before:
            _log.warning("the mint wants run %s again from record %d on", self.boot, self.next)
            self._rewind()
        while self._ahead and self._ahead[0][0] < self.next:
            self._ahead.popleft()
        return before is None or high_water >= batch.last

    def free(self, keep_ms: int) -> None:
        """Remove complete files whose records the mint has.

        A damaged file is renamed instead.  A file that a verifier still writes stays.

        Args:
            keep_ms: How long a file stays after its last write, ms.
        """
        wanted = self.next or 0
        for path, reader in tuple(self._files.items()):
            if not reader.ended or reader.sequence > wanted:
                continue
            with contextlib.suppress(FileNotFoundError):
                if is_written(path) or (keep_ms and time.time() * 1000 - path.stat().st_mtime * 1000 < keep_ms):
                    continue
                if path in self._damaged:
                    path.rename(path.with_suffix(DAMAGED))
                else:
                    path.unlink()
            del self._files[path]

    @property
    def empty(self) -> bool:
        """Whether the run has no files."""
        return not self._files

    @property
    def _ended(self) -> bool:
        return all(reader.ended for reader in self._files.values())

    @property
    def _known_to(self) -> int:
        """The sequence after the last record in the files."""
        return max((reader.sequence for reader in self._files.values()), default=0)

    def _make(self, first: int, lost_from: int | None, records: tuple[Sealed, ...], *, closed: bool) -> Batch:
        return Batch(self.verifier, self.audience, self.boot, first, lost_from, records, closed)

    def _contiguous(self, first: int) -> tuple[Sealed, ...]:
        records: list[Sealed] = []
        size = 0
        for sequence, sealed in self._ahead:
            if sequence < first:
                continue  # sent, and not yet acknowledged
            if sealed is None or sequence != first + len(records):
                break
            if len(records) == self._at_once or size > BATCH_BYTES:
                break
            records.append(sealed)
            size += len(sealed.kept) + len(sealed.body)
        return tuple(records)

    def _read(self, count: int) -> None:
        """Read up to ``count`` records ahead of ``next``."""
        # A file is left only when it has ended: its last record may appear only when the run's next file exists.
        assert self.next is not None
        for path, reader in self._files.items():
            if not reader.ended:
                for sequence, payload in reader.payloads():
                    if sequence >= self.next:
                        self._ahead.append((sequence, self._seal(path, sequence, payload)))
                    if len(self._ahead) >= count:
                        return
            if not reader.ended:
                return

    def _seal(self, path: Path, sequence: int, payload: bytes) -> Sealed | None:
        if not payload:
            return None  # its damage was logged
        try:
            sealed = seal(payload, self.verifier, self.boot, sequence)
        except AuditError as error:
            self._on_damage(Damage(path, 0, f"record {sequence}: {error}"))
            return None
        if len(sealed.kept) > MAX_KEPT:
            self._on_damage(Damage(path, 0, f"record {sequence} is too long for the log"))
            return None
        return sealed

    def _rewind(self) -> None:
        self._ahead.clear()
        self.over = self._sent_end = False
        for path, reader in self._files.items():
            self._files[path] = SegmentReader(path, reader.header, self._on_damage)

    def _in_order(self) -> bool:
        """Return whether the last file is marked as the run's end."""
        if not self._files:
            return False
        try:
            with next(reversed(self._files)).open("rb") as file:
                return is_last(file.read(HEADER_BYTES))
        except FileNotFoundError:
            return False

    def _on_damage(self, damage: Damage) -> None:
        if damage.file not in self._damaged:
            _log.error("records are lost, their file is damaged: %s", damage)
        self._damaged.add(damage.file)


def _is_alive(path: Path) -> bool:
    try:
        return is_written(path)
    except FileNotFoundError:
        return False


class JournalRuns:
    """The runs in one folder.

    Args:
        folder: The folder of a journal.
        audience: The service whose records are read; other services' files are ignored.
        at_once: Records in a batch.

    Attributes:
        runs: The runs by their ids.
        used: Size of the journal's files, bytes.
        budget: Their quota, bytes, as the newest file's header states it; 0 without a file.
    """

    def __init__(self, folder: Path, audience: str, at_once: int = AT_ONCE) -> None:
        self.folder, self.audience, self.at_once = folder, audience, at_once
        self.runs: dict[str, JournalRun] = {}
        self.used = self.budget = 0
        self._seen: set[Path] = set()

    @property
    def fill(self) -> float:
        """Used share of the quota, 0.0 to 1.0."""
        return min(1.0, self.used / self.budget) if self.budget else 0.0

    def look(self) -> None:
        """Find new files, and forget runs without files."""
        self.used, existing = 0, set()
        for path in files_in(self.folder):
            try:
                self.used += path.stat().st_size
                if path not in self._seen:
                    self._take(path)
            except FileNotFoundError:
                continue  # freed since
            existing.add(path)
        self._seen = existing
        self.runs = {boot: run for boot, run in self.runs.items() if not run.empty}

    def _take(self, path: Path) -> None:
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
        try:
            header = read_header(start)
        except AuditError as error:
            _log.error("records may be lost, %s cannot be read: %s", path, error)
            path.rename(path.with_suffix(DAMAGED))
            return
        self.budget = header.budget
        if header.audience != self.audience:
            _log.error("%s is of the service %s and is left alone", path, header.audience)
            return
        self.runs.setdefault(header.boot, JournalRun(header, self.at_once)).add(path, header)
