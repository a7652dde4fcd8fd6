# SPDX-License-Identifier: Apache-2.0
"""Read decision journals: each run's records in order, runs merged by time, damage reported.  SPEC 12.

Verifiers may be writing meanwhile.
"""

import heapq
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision, unpack
from arx_verifier.journal.liveness import has_writer
from arx_verifier.journal.record import MAX_RECORD_BYTES
from arx_verifier.journal.segment import (
    HEADER_BYTES,
    RECORD_HEADER,
    SUFFIX,
    SegmentHeader,
    checksum_of,
    read_header,
    stored_size,
)

_TRIES: Final = 3  # another processor may see the parts of a new record in another order for a moment


class Damage(NamedTuple):
    """A damaged part of a journal.

    Attributes:
        file: The segment.
        offset: The place in it, bytes.
        why: The reason.
    """

    file: Path
    offset: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}: byte {self.offset}: {self.why}"


def refuse(damage: Damage) -> None:
    """Stop at damage: the default of a reader.

    Raises:
        AuditError: Always.
    """
    raise AuditError(f"the decision journal is damaged: {damage}")


def read_journal(
    *folders: str | Path,
    follow: bool = False,
    poll_s: float = 0.2,
    stop: threading.Event | None = None,
    on_damage: Callable[[Damage], None] = refuse,
) -> Iterator[Decision]:
    """Yield the decisions of all journals in folders and below them.

    Args:
        folders: Journals' folders, or folders that contain such.
        follow: Whether to wait for more at the end, reading every ``poll_s`` seconds until ``stop`` is set.
        poll_s: Pause between two reads, s.
        stop: Ends following.
        on_damage: Called with each damage; if it returns, reading continues after it.

    Yields:
        Decisions in the order of their times; those of one run in the order of their sequences.

    Raises:
        AuditError: By default, at damage or at missing records between others.
    """
    readers: dict[Path, SegmentReader] = {}
    runs: dict[str, int] = {}
    yield from heapq.merge(*_runs(folders, readers, runs, on_damage), key=lambda decision: decision.at)
    stop = stop or threading.Event()
    while follow and not stop.wait(poll_s):
        fresh = [decision for run in _runs(folders, readers, runs, on_damage) for decision in run]
        yield from sorted(fresh, key=lambda decision: decision.at)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the journals' files in a folder and below it; unreadable folders are skipped."""

    def skip_unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | PermissionError):
            raise error

    for at, _, names in os.walk(folder, onerror=skip_unreadable):
        yield from (Path(at) / name for name in names if name.endswith(SUFFIX))


def _runs(
    folders: tuple[str | Path, ...],
    readers: dict[Path, "SegmentReader"],
    runs: dict[str, int],
    on_damage: Callable[[Damage], None],
) -> list[Iterator[Decision]]:
    """Return an iterator for each run over the new records in its segments."""
    for path in sorted({path for folder in folders for path in _files_below(Path(folder))}):
        if path not in readers:
            try:
                with path.open("rb") as file:
                    readers[path] = SegmentReader(path, read_header(file.read(HEADER_BYTES)), on_damage)
            except FileNotFoundError:
                continue  # shipped since
            except AuditError as error:
                readers[path] = SegmentReader(path, None, on_damage)
                on_damage(Damage(path, 0, str(error)))
    by_run: dict[str, list[SegmentReader]] = {}
    for reader in readers.values():
        if reader.header is not None:
            by_run.setdefault(reader.header.boot, []).append(reader)
    return [_one_run(boot, run, runs, on_damage) for boot, run in by_run.items()]


def _one_run(
    boot: str, readers: list["SegmentReader"], runs: dict[str, int], on_damage: Callable[[Damage], None]
) -> Iterator[Decision]:
    for reader in sorted(readers, key=lambda reader: reader.first):
        for decision in reader.read():
            expected = runs.get(boot, decision.sequence)  # shipped records at the beginning are no damage
            if decision.sequence > expected:
                lost = f"decisions {expected} to {decision.sequence - 1} of run {boot} are missing"
                on_damage(Damage(reader.path, reader.offset, lost))
            runs[boot] = decision.sequence + 1
            yield decision


class SegmentReader:
    """Reads one segment, as far as it was written.

    Args:
        path: The file.
        header: Its header, or None if that is damaged: then nothing is read.
        on_damage: Called with each damage.

    Attributes:
        sequence: The sequence of the next record.
        offset: The place of that record, bytes.
        ended: Whether no more records will come.
    """

    def __init__(self, path: Path, header: SegmentHeader | None, on_damage: Callable[[Damage], None]) -> None:
        self.path, self.header = path, header
        self.first = self.sequence = header.first if header else 0
        self.offset = HEADER_BYTES
        self._on_damage, self.ended = on_damage, header is None

    def payloads(self) -> Iterator[tuple[int, bytes]]:
        """Yield sequence and payload of the new records; the payload of a damaged one is empty."""
        if self.ended:
            return
        try:
            with self.path.open("rb") as file:
                # Asked first: if the writer is dead, all its records are in the file now.
                live = has_writer(file, self.path.parent)
                while (payload := self._record(file)) is not None:
                    self.sequence += 1
                    yield self.sequence - 1, payload
                if not (live or self.ended):
                    self._end(file)
        except FileNotFoundError:
            self.ended = True  # shipped since

    def read(self) -> Iterator[Decision]:
        """Yield the new decisions."""
        for sequence, payload in self.payloads():
            decision = self._decision(payload, sequence)
            if decision is not None:
                yield decision

    def _end(self, file: BinaryIO) -> None:
        self.ended = True
        file.seek(self.offset)
        if not _only_unfinished(file.read(), self.sequence):
            self._on_damage(Damage(self.path, self.offset, "a record has no length, and other bytes follow it"))

    def _decision(self, payload: bytes, sequence: int) -> Decision | None:
        assert self.header is not None
        if not payload:
            return None
        try:
            decision = unpack(payload)
        except AuditError as error:
            self._on_damage(Damage(self.path, self.offset - stored_size(len(payload)), str(error)))
            return None
        # From the place in the file, not from the payload: a moved record keeps no name of its own.
        decision.sequence, decision.verifier, decision.boot = sequence, self.header.verifier, self.header.boot
        return decision

    def _record(self, file: BinaryIO) -> bytes | None:
        """Return the next payload; empty if it is damaged, None at the end."""
        for _ in range(_TRIES):
            file.seek(self.offset)
            start = file.read(RECORD_HEADER.size)
            if len(start) < RECORD_HEADER.size:
                return None
            length, checksum = RECORD_HEADER.unpack(start)
            if not length:
                return None
            # Checked before it is read: a damaged length must not make the reader allocate gigabytes.
            if length > MAX_RECORD_BYTES:
                self._damaged(f"a record of {length} bytes cannot be")
                return None
            payload = file.read(length)
            if len(payload) == length and checksum_of(payload, self.sequence) == checksum:
                self.offset += stored_size(length)
                return payload
        if len(payload) < length:
            self._damaged("the segment ends within a record")
            return None
        self._on_damage(Damage(self.path, self.offset, "a record does not have its checksum"))
        # The length may be right where the content is not, so the next record is tried.
        self.offset += stored_size(length)
        return b""

    def _damaged(self, why: str) -> None:
        self.ended = True  # the beginning of the next record is unknown
        self._on_damage(Damage(self.path, self.offset, why))


def end_of_records(raw: bytes) -> int | None:
    """Return the offset after the last record of a segment.

    Args:
        raw: The whole segment.

    Returns:
        The offset, or None if a record is damaged, or more than one unfinished record follows.

    Raises:
        AuditError: It is no segment.
    """
    sequence, offset = read_header(raw).first, HEADER_BYTES
    while offset + RECORD_HEADER.size <= len(raw):
        length, checksum = RECORD_HEADER.unpack_from(raw, offset)
        if not length:
            break
        start = offset + RECORD_HEADER.size
        # Behind a damaged record the next one may begin elsewhere: cut there, the file would lose it.
        if length > MAX_RECORD_BYTES or checksum_of(raw[start : start + length], sequence) != checksum:
            return None
        offset += stored_size(length)
        sequence += 1
    return offset if offset <= len(raw) and _only_unfinished(raw[offset:], sequence) else None


def _only_unfinished(rest: bytes, sequence: int) -> bool:
    """Return whether at most one record without its length follows the last record."""
    # A record without its length was being written when its process died, and was never acknowledged: it is no damage.
    if len(rest) <= RECORD_HEADER.size or _zeros(rest):
        return True
    checksum, running = RECORD_HEADER.unpack_from(rest)[1], checksum_of(b"", sequence)
    for end in range(RECORD_HEADER.size, min(MAX_RECORD_BYTES + RECORD_HEADER.size, len(rest))):
        running = crc32(rest[end : end + 1], running)
        if running == checksum:
            return _zeros(rest[end + 1 :])
    return _zeros(rest[RECORD_HEADER.size + MAX_RECORD_BYTES :])


def _zeros(raw: bytes) -> bool:
    return raw.count(0) == len(raw)
