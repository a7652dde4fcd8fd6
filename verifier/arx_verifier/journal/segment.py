# SPDX-License-Identifier: Apache-2.0
"""One file of a decision journal: its bytes, its mapping, its end.  SPEC 12.

A segment is reserved in full and then mapped, so that writing a record is a copy in memory which survives the death of
the process and cannot meet a full disk.  A record's checksum and payload are written first and its length last: what
has a length is whole.  When to open the next segment is ``writer``'s to say; reading them in order is ``reader``'s.

::

    0   magic "ARXJRNL2"        16  length and CRC-32 of the header, 2 x u32
    8   state, one byte         24  header: MessagePack [verifier, audience, boot, first sequence, created, budget]
    12  bytes of denials, u32*  256 records: u32 length of the payload, u32 CRC-32, payload, zeros to a multiple of four

Numbers are little-endian, but the one with a star: it is for processes of this machine, and has its order.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from arx_verifier.errors import AuditError

SUFFIX: Final = ".arxj"
HEADER_BYTES: Final = 256
RECORD_HEADER: Final = struct.Struct("<II")
_MAGIC: Final = b"ARXJRNL2"
_STATE_AT: Final = 8
_OPEN, _CLOSED, _ENDED = b"\0", b"\1", b"\2"
_DENIED_AT, _LENGTHS_AT, _BODY_AT = 12, 16, 24
_SWAPS: Final = sys.byteorder != "little"  # whether a view of the mapping has another order than the file's numbers
_DENIED: Final = struct.Struct("=I")  # in this machine's order, as a view of the mapping has it


class SegmentHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whose records a segment holds.

    Attributes:
        verifier: The verifier's id.
        audience: Its audience.
        boot: The run of the verifier that wrote it.
        first: Sequence of the first record.
        created: When, in ms since the Unix epoch.
        budget: What all files of the folder may take, bytes.
    """

    verifier: str
    audience: str
    boot: str
    first: int
    created: int
    budget: int

    @property
    def name(self) -> str:
        """The file's name; names sort by time."""
        return f"{self.created:014d}-{self.boot}-{self.first:012d}{SUFFIX}"

    def pack(self) -> bytes:
        """Return the first bytes of the file."""
        body = msgspec.msgpack.encode(self)
        if _BODY_AT + len(body) > HEADER_BYTES:
            raise AuditError("the verifier's id or audience is too long for a journal")
        start = _MAGIC.ljust(_LENGTHS_AT, b"\0") + RECORD_HEADER.pack(len(body), crc32(body))
        return (start + body).ljust(HEADER_BYTES, b"\0")


def read_header(raw: bytes) -> SegmentHeader:
    """Read the first ``HEADER_BYTES`` of a segment.

    Raises:
        AuditError: Not a segment, or its header is damaged.
    """
    if len(raw) < HEADER_BYTES or not raw.startswith(_MAGIC):
        raise AuditError("not a journal segment")
    length, checksum = RECORD_HEADER.unpack_from(raw, _LENGTHS_AT)
    body = raw[_BODY_AT : _BODY_AT + length]
    if crc32(body) != checksum:
        raise AuditError("the segment's header is damaged")
    try:
        return msgspec.msgpack.decode(body, type=SegmentHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditError("the segment's header is damaged") from error


def checksum_of(payload: bytes, sequence: int) -> int:
    """CRC-32 of a record; it covers the sequence, so that a record out of its place is seen."""
    return crc32(payload, sequence & 0xFFFFFFFF)


def stored_size(payload: int) -> int:
    """Bytes that a record with so long a payload takes."""
    return (RECORD_HEADER.size + payload + 3) & ~3


class Segment:
    """A segment being written by this process, under its lock.

    Args:
        folder: The journal's folder.
        header: Whose records.
        size: Bytes to reserve.

    Attributes:
        room: Bytes left.
        denied: One number: how many bytes of it are denials, noted in the file, since all that write to the folder
            share one bound.
        unkept: Whether the disk refused some of it.

    Raises:
        OSError: It cannot be made: the disk is full, read-only or not ours.
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
            making.rename(self.path)  # readers never see one that is half made
        except BaseException:
            os.close(self._fd)
            making.unlink(missing_ok=True)
            raise

    def write(self, payload: bytes, sequence: int) -> None:
        """Add a record; the caller has seen that there is room.  The length is written last and makes it count.

        An exception from outside, such as a signal handler's, is raised where something is called.  From the first byte
        that is written on nothing is, so that a record is there whole, and its room taken, or not at all.
        """
        mapped, words, start, length = self._map, self._words, self.size - self.room, len(payload)
        word, counts, checksum = start >> 2, length, crc32(payload, sequence & 0xFFFFFFFF)  # ``checksum_of``
        if _SWAPS:
            counts, checksum = _swapped(counts), _swapped(checksum)
        start += 8
        mapped[start : start + length] = payload
        words[word + 1] = checksum
        words[word] = counts
        self.room -= (length + 11) & ~3  # ``stored_size``

    def healthy(self) -> bool:
        """Whether the file is still in its folder and as long as it was: one deleted or cut is written in vain."""
        try:
            there, here = self.path.stat(follow_symlinks=False), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev) and here.st_size == self.size

    def sync(self) -> None:
        """Return when all that was written is on the disk.

        Raises:
            OSError: The disk could not keep it.
        """
        if not self._named:
            _sync_folder(self.path.parent)  # a file on the disk whose name is not there is found by nobody
            self._named = True
        if hasattr(os, "fdatasync"):  # Linux: covers what was written through a mapping, and lets other threads run
            os.fdatasync(self._fd)
        else:
            self._map.flush()
            fcntl.fcntl(self._fd, getattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD))

    def close(self, *, ended: bool = False) -> None:
        """Give back the room that was not used, and mark the segment closed; idempotent.

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
        """Let go of a segment that another process, the parent, still writes."""
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
    """Cut a segment at its end and mark it closed, and its run ended if it is.  The caller holds its lock."""
    os.ftruncate(fd, end)
    os.pwrite(fd, _ENDED if ended else _CLOSED, _STATE_AT)


def is_closed(raw: bytes) -> bool:
    """Whether a segment's first bytes say that it was closed."""
    return raw[_STATE_AT : _STATE_AT + 1] != _OPEN


def is_last(raw: bytes) -> bool:
    """Whether a segment's first bytes say that its run ended with it, in order."""
    return raw[_STATE_AT : _STATE_AT + 1] == _ENDED


def files_in(folder: Path, ending: str = SUFFIX) -> list[Path]:
    """Return the files of a journal's folder, by name; none where there is no folder.

    From Python 3.13 on ``Path.glob`` takes a folder that it cannot read for an empty one: its files would not count.

    Raises:
        OSError: The folder cannot be read, such as without a file descriptor left.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    except FileNotFoundError:
        return []


def denied_in(path: Path) -> int:
    """Return how many bytes of a segment are denials, as whoever wrote them noted; 0 of a file that is gone."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LENGTHS_AT)
    except FileNotFoundError:
        return 0
    return int(_DENIED.unpack_from(raw, _DENIED_AT)[0]) if len(raw) == _LENGTHS_AT else 0


def _reserve(fd: int, size: int) -> None:
    """Take the room now: a disk that fills up later would otherwise end the process at a write to the mapping."""
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
