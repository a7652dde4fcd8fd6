# SPDX-License-Identifier: Apache-2.0
"""A second writer of decision journals, from the text of SPEC 15.3: no lock, a socket, and none of the verifier's code.

``python -m tests.vectors.second_journal FOLDER`` writes records as fast as it can, and prints ``boot sequence`` of each
record that it has written.
"""

import os
import socket
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import msgpack

OPEN, CLOSED, ENDED = 0, 1, 2
HEADER = ["orders-2", "orders", "0123456789ab", 1, 1_800_000_000_000, 1 << 30]
NAMES = ("verifier", "audience", "boot", "first", "created", "budget")


def header(values: list[Any], state: int = OPEN) -> bytes:
    """Return the first 256 bytes of a segment."""
    body = msgpack.packb(values)
    start = b"ARXJRNL2" + bytes([state, 0, 0, 0]) + struct.pack("=I", 0)
    return (start + struct.pack("<II", len(body), zlib.crc32(body)) + body).ljust(256, b"\0")


def record(payload: bytes, sequence: int) -> bytes:
    """Return a whole record."""
    raw = struct.pack("<II", len(payload), zlib.crc32(payload, sequence % (1 << 32))) + payload
    return raw + bytes(-len(raw) % 4)


class SecondWriter:
    """A run: its socket, and one segment after another.

    Args:
        folder: The journal's folder.
        room: Size of a segment, bytes.
    """

    def __init__(self, folder: Path, room: int = 65536) -> None:
        self.boot, self._room, self._sequence = os.urandom(6).hex(), room, 0
        self._folder = os.open(folder, os.O_RDONLY)
        self._short = Path(f"/proc/self/fd/{self._folder}")  # any folder's path fits a socket's address
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self._short / f"{self.boot}.making"))
        (self._short / f"{self.boot}.making").chmod(0o600)
        self._socket.listen(4)
        (self._short / f"{self.boot}.making").rename(self._short / f"{self.boot}.sock")
        self._file = self._next()

    def _next(self) -> int:
        created, first = time.time_ns() // 1_000_000, self._sequence + 1
        self._path = self._short / f"{created:014d}-{self.boot}-{first:012d}.arxj"
        file = os.open(self._path.with_suffix(".making"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.pwrite(file, bytes(self._room), 0)
        os.pwrite(file, header([*HEADER[:2], self.boot, first, created, HEADER[5]]), 0)
        self._path.with_suffix(".making").rename(self._path)
        self._end = 256
        return file

    def write(self, payload: bytes) -> int:
        """Write a record, the length last; return its sequence."""
        raw = record(payload, self._sequence + 1)
        if self._end + len(raw) > self._room:
            old, end = self._file, self._end
            self._file = self._next()
            self._close(old, end, CLOSED)
        os.pwrite(self._file, raw[4:], self._end + 4)
        os.pwrite(self._file, raw[:4], self._end)
        self._end += len(raw)
        self._sequence += 1
        return self._sequence

    def close(self) -> None:
        """End the run in order."""
        self._close(self._file, self._end, ENDED)
        self._socket.close()
        (self._short / f"{self.boot}.sock").unlink()
        os.close(self._folder)

    def _close(self, file: int, end: int, state: int) -> None:
        os.ftruncate(file, end)
        os.pwrite(file, bytes([state]), 8)
        os.close(file)


def decision_of(tool: str, at: int, salt: bytes) -> bytes:
    """Return the payload of an allow, as SPEC 12.6 has it."""
    facts = ["acme/support", "s-1", [], [], None, [], "t" * 22, "orders", None, "k1.0", "bearer", None]
    call = [at, "ok", tool, b"", "", 0, -1, [], 0, [], None]
    packed: bytes = msgpack.packb([1, facts, [None, [], []], [call, [salt, [], None, None, None, [], None]]])
    return packed


def main() -> None:
    """Write until a kill."""
    writer = SecondWriter(Path(sys.argv[1]))
    while True:
        sequence = writer.write(decision_of("second", time.time_ns() // 1_000_000, os.urandom(16)))
        os.write(1, f"{writer.boot} {sequence}\n".encode())


if __name__ == "__main__":
    main()
