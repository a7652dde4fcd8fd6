# SPDX-License-Identifier: Apache-2.0
"""One file of named parts: a tar archive of which each byte has one spelling.  CONTROL 8.1.

No part becomes a file here, and no library unpacks it: ``contents`` decides where each part may go.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta

from arx_caps.audit.merkle.errors import IncompleteError, TamperedError

BLOCK: Final = tarfile.BLOCKSIZE
CHUNK: Final = 1024 * 1024  # bytes that are read at once
# No part of a path begins with a dot, so that none leaves the folder; tar has 100 bytes for a name.
_NAME: Final = re.compile(r"(?=.{1,99}\Z)[a-z0-9][A-Za-z0-9._-]*(/[a-z0-9][A-Za-z0-9._-]*)*")
_END: Final = bytes(2 * BLOCK)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a part, bytes, and its SHA-256, hex."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class ArchiveWriter:
    """Writes parts into a file.

    Args:
        file: An empty file that can seek.

    Attributes:
        parts: What was written, by name.
        size: Number of bytes so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.parts, self.size = file, dict[str, Part](), 0

    def add(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a part.

        Args:
            name: Its name.
            chunks: Its content; the length need not be known.

        Raises:
            OSError: The file cannot be written.
        """
        begin, digest, size = self.size, hashlib.sha256(), 0
        self._file.write(bytes(BLOCK))  # in the place of the header, which has the size
        for chunk in chunks:
            self._file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            self.size = begin + BLOCK + size
        self._file.write(bytes(-size % BLOCK))
        self._file.seek(begin)
        self._file.write(_header(name, size))
        self.size = self._file.seek(0, os.SEEK_END)
        self.parts[name] = Part(size, digest.hexdigest())

    def finish(self) -> None:
        """Write the end of the archive."""
        self._file.write(_END)


class ArchiveReader:
    """Reads parts of a file, which an attacker may have made.

    Args:
        file: The file.

    Raises:
        IncompleteError: It ends too early.
        TamperedError: It is not in the form of ``ArchiveWriter``.

    Attributes:
        names: The names of the parts, in their order.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._places = file, dict[str, tuple[int, int]]()
        self._length = file.seek(0, os.SEEK_END)
        at = 0
        while (header := self._read(at, BLOCK)) != _END[:BLOCK]:
            name, size = _parse(header)
            if name in self._places:
                raise TamperedError(f"two parts of the backup are called {name}")
            self._places[name] = at + BLOCK, size
            end = at + BLOCK + size
            at = end + -size % BLOCK
            if any(self._read(end, at - end)):
                raise TamperedError(f"the backup has bytes behind its part {name}")
        self._read(at, len(_END))
        self._file.seek(at)
        if self._file.read() != _END:
            raise TamperedError("the backup has bytes behind its end")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, in their order."""
        return tuple(self._places)

    def small(self, name: str, limit: int = 256 * CHUNK) -> bytes:
        """Return a part that fits into memory.

        Args:
            name: Its name.
            limit: The largest size, bytes.

        Raises:
            TamperedError: There is none, or it is larger.
        """
        at, size = self._place(name)
        if size > limit:
            raise TamperedError(f"the part {name} of the backup has {size} bytes, which is too many")
        return self._read(at, size)

    def chunks(self, name: str, part: Part) -> Iterator[bytes]:
        """Yield the content of a part; the last step verifies it, so use none of it before the end.

        Args:
            name: Its name.
            part: Its size and hash.

        Raises:
            TamperedError: It has another size or hash.
        """
        at, size = self._place(name)
        digest, end = hashlib.sha256(), at + size
        for begin in range(at, end, CHUNK):
            chunk = self._read(begin, min(CHUNK, end - begin))
            digest.update(chunk)
            yield chunk
        if (size, digest.hexdigest()) != (part.size, part.sha256):
            raise TamperedError(f"the part {name} of the backup is not what was backed up")

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            raise TamperedError(f"the backup has no part {name}")
        return self._places[name]

    def _read(self, at: int, size: int) -> bytes:
        if at + size > self._length:
            raise IncompleteError("the backup ends too early: it is not a backup of ARx, or a part of one")
        self._file.seek(at)
        return self._file.read(size)


def _header(name: str, size: int) -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.mode = size, 0o600
    return about.tobuf(tarfile.GNU_FORMAT)


def _parse(header: bytes) -> tuple[str, int]:
    try:
        about = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        name, size = about.name, about.size
    except (tarfile.HeaderError, ValueError) as error:
        raise TamperedError("the backup has a damaged header, or is not a backup of ARx") from error
    # A link, a folder, a device, a pax header, another mode or owner: all that is not exactly what the writer writes.
    if _NAME.fullmatch(name) is None or size < 0 or _header(name, size) != header:
        raise TamperedError(f"the backup has a part that no backup of ARx has: {name[:100]!r}")
    return name, size
