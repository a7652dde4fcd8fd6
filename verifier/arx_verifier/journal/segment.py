# SPDX-License-Identifier: Apache-2.0
"""One file of a decision journal: its bytes, its memory mapping, its end.  SPEC 12.

A segment is reserved in full and then mapped: writing a record is a copy in memory, which survives the death of the
process and cannot meet a full disk.  Checksum and payload are written first and the length last, so that a record with
a length is complete.  ``writer`` opens segments, ``reader`` reads them.

::

    0   magic "ARXJRNL2"        16  length and CRC-32 of the header, 2 x u32
    8   state, one byte         24  header: MessagePack [verifier, audience, boot, first sequence, created, budget]
    12  bytes of denials, u32*  256 records: u32 length of the payload, u32 CRC-32, payload, zeros to a multiple of four

Numbers are little-endian, except the one with a star: it has this machine's byte order, for processes on it.
"""

import contextlib
import errno
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Annotated, Final
from zlib import crc32

import msgspec

from arx_verifier.errors import AuditError

try:
    import fcntl as fcntl  # noqa: PLC0414 - for the other modules of the journal, too
except ImportError:  # Windows, where no journal is opened
    fcntl = None  # type: ignore[assignment]

SUFFIX: Final = ".arxj"
HEADER_BYTES: Final = 256
RECORD_HEADER: Final = struct.Struct("<II")
_MAGIC: Final = b"ARXJRNL2"
_STATE_AT: Final = 8
_OPEN, _CLOSED, _ENDED = b"\0", b"\1", b"\2"
_DENIED_AT, _LENGTHS_AT, _BODY_AT = 12, 16, 24
_SWAPS: Final = sys.byteorder != "little"  # whether a view of the mapping has another byte order than the file
_DENIED: Final = struct.Struct("=I")  # in this machine's byte order, as a view of the mapping


class SegmentHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The header of a segment.

    Attributes:
        verifier: The verifier's id.
        audience: Its audience.
        boot: The run of the verifier that wrote it; names of files have it.
        first: Sequence of the first record.
        created: Its time, ms since the Unix epoch.
        budget: The quota of all files of the folder, bytes.
    """

    verifier: str
    audience: str
    boot: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-z]{1,64}\Z")]
    first: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    created: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    budget: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]

    @property
    def name(self) -> str:
        """The file's name; names sort by time."""
        return f"{self.created:014d}-{self.boot}-{self.first:012d}{SUFFIX}"

    def pack(self) -> bytes:
        """Return the first bytes of the file.

        Raises:
            AuditError: The verifier's id or audience is too long.
        """
        body = msgspec.msgpack.encode(self)
        if _BODY_AT + len(body) > HEADER_BYTES:
            raise AuditError("the verifier's id or audience is too long for a journal")
        start = _MAGIC.ljust(_LENGTHS_AT, b"\0") + RECORD_HEADER.pack(len(body), crc32(body))
        return (start + body).ljust(HEADER_BYTES, b"\0")


def read_header(raw: bytes) -> SegmentHeader:
    """Parse the first ``HEADER_BYTES`` of a segment.

    Raises:
        AuditError: It is no segment, or its header is damaged.
    """
    if len(raw) < HEADER_BYTES or not raw.startswith(_MAGIC):
        raise AuditError("not a journal segment")
    length, checksum = RECORD_HEADER.unpack_from(raw, _LENGTHS_AT)
    body = raw[_BODY_AT : min(_BODY_AT + length, HEADER_BYTES)]
    if crc32(body) != checksum:
        raise AuditError("the segment's header is damaged")
    try:
        return msgspec.msgpack.decode(body, type=SegmentHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditError("the segment's header is damaged") from error


def checksum_of(payload: bytes, sequence: int) -> int:
    """Return the CRC-32 of a record; it covers the sequence, so that a misplaced record is detected."""
    return crc32(payload, sequence & 0xFFFFFFFF)


def stored_size(payload: int) -> int:
    """Return the size of a record with a payload of this length, bytes."""
    return (RECORD_HEADER.size + payload + 3) & ~3


class Segment:
    """A segment that this process writes, under its lock.

    Args:
        folder: The journal's folder.
        header: The segment's header.
        size: Bytes to reserve.

    Attributes:
        room: Bytes left.
        denied: One number, in the file: the bytes of denials, because all writers of the folder share one quota.
        unkept: Whether the disk refused some of it.

    Raises:
        OSError: It cannot be made: the disk is full, read-only or not accessible.
    """

    def __init__(self, folder: Path, header: SegmentHeader, size: int) -> None:
        self.path, self.header, self.size = folder / header.name, header, size
        self.room, self.unkept, self._named = size - HEADER_BYTES, False, False
        making = self.path.with_suffix(".making")
        self._fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _reserve(self._fd, size)
            os.pwrite(self._fd, header.pack(), 0)
            self._map = mmap.mmap(self._fd, size)
            self._words = memoryview(self._map).cast("I")
            self.denied = self._words[_DENIED_AT // 4 : _LENGTHS_AT // 4]
            making.rename(self.path)  # readers never see a half-made file
        except BaseException:
            os.close(self._fd)
            making.unlink(missing_ok=True)
            raise

    def write(self, payload: bytes, sequence: int) -> None:
        """Append a record; the caller has checked that there is room.

        Args:
            payload: The record's payload.
            sequence: Its sequence.
        """
        # An exception from outside, such as a signal handler's, is raised where something is called.  From the first
        # written byte on nothing is called: a record is written whole, and its room taken, or not at all.
        mapped, words, start = self._map, self._words, self.size - self.room
        length = counts = len(payload)
        word, checksum = start >> 2, crc32(payload, sequence & 0xFFFFFFFF)  # ``checksum_of``
        if _SWAPS:
            counts, checksum = _swapped(counts), _swapped(checksum)
        start += 8
        mapped[start : start + length] = payload
        words[word + 1] = checksum
        words[word] = counts  # the length, written last, makes the record valid
        self.room -= (length + 11) & ~3  # ``stored_size``

    def healthy(self) -> bool:
        """Return whether the file is still in its folder, at its full length."""
        # Records written to a deleted or cut file are lost.
        try:
            there, here = self.path.stat(follow_symlinks=False), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev) and here.st_size == self.size

    def sync(self) -> None:
        """Wait until all written records are on disk.

        Raises:
            OSError: The disk could not keep them.
        """
        if not self._named:
            _sync_folder(self.path.parent)  # the file's name must be on disk as well
            self._named = True
        if hasattr(os, "fdatasync"):  # Linux: covers what was written through a mapping, and lets other threads run
            os.fdatasync(self._fd)
        else:
            self._map.flush()
            fcntl.fcntl(self._fd, getattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD))

    def close(self, *, ended: bool = False) -> None:
        """Release the unused room, and mark the segment closed; idempotent.

        Args:
            ended: Whether the run ends with it, in order.
        """
        if self._fd < 0:
            return
        self._unmap()
        with contextlib.suppress(OSError):  # the records are safe; only room is lost
            finish(self._fd, self.size - self.room, ended=ended)
        self.abandon()

    def abandon(self) -> None:
        """Release a segment that another process, the parent, still writes."""
        self._unmap()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unmap(self) -> None:
        self.denied.release()
        self._words.release()
        self._map.close()


def _swapped(number: int) -> int:
    return int.from_bytes(number.to_bytes(4, "little"), "big")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def finish(fd: int, end: int, *, ended: bool = False) -> None:
    """Cut a segment at its end and mark it closed; the caller must have its lock.

    Args:
        fd: The file's descriptor.
        end: The offset after its last record, bytes.
        ended: Whether the run ends with it, in order.
    """
    os.ftruncate(fd, end)
    os.pwrite(fd, _ENDED if ended else _CLOSED, _STATE_AT)


def is_closed(raw: bytes) -> bool:
    """Return whether a segment's first bytes mark it closed."""
    return raw[_STATE_AT : _STATE_AT + 1] != _OPEN


def is_last(raw: bytes) -> bool:
    """Return whether a segment's first bytes mark it as the last of a run that ended in order."""
    return raw[_STATE_AT : _STATE_AT + 1] == _ENDED


def files_in(folder: Path, ending: str = SUFFIX) -> list[Path]:
    """Return the files of a journal's folder, by name; none without the folder.

    Args:
        folder: The journal's folder.
        ending: The end of their names.

    Raises:
        OSError: The folder cannot be read, for example without a free file descriptor.
    """
    # Not `Path.glob`: from Python 3.13 on it takes an unreadable folder for an empty one, whose files would not count.
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    except FileNotFoundError:
        return []


def denied_in(path: Path) -> int:
    """Return the bytes of denials in a segment, as its writer counted them; 0 if the file is gone."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LENGTHS_AT)
    except FileNotFoundError:
        return 0
    return int(_DENIED.unpack_from(raw, _DENIED_AT)[0]) if len(raw) == _LENGTHS_AT else 0


def _reserve(fd: int, size: int) -> None:
    """Allocate the file's room on disk."""
    # A disk that fills up later would end the process at a write to the mapping.
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    zeros = bytes(min(size, 1 << 20))
    for start in range(0, size, len(zeros)):
        os.pwrite(fd, zeros[: size - start], start)
