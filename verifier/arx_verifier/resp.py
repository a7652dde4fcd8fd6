# SPDX-License-Identifier: Apache-2.0
"""Write commands to a store and cut its answers out of a stream of bytes: RESP3, as far as the feed needs it.

The client library opens connections, logs in and finds the primary; for the one command and the two kinds of answer
that every verifier exchanges for every kill its general way takes three times as long as all the rest.
"""

from typing import Any, Final

MAX_BULK: Final = 16 * 1024 * 1024  # bytes; a page of the longest scopes has 120 000
MAX_LINE: Final = 64 * 1024
MAX_ITEMS: Final = 100_000
MAX_DEPTH: Final = 8
LISTS: Final = b"*>~"
MORE: Final = object()  # no value is whole yet


class RefusedError(Exception):
    """The store answered an error."""


def pack(*words: str | int | bytes) -> bytes:
    """Write a command."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in raw])


class Reader:
    """Cuts bytes into values: text as ``bytes``, numbers as ``int``, lists and pushes as ``list``, null as None."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._open: list[tuple[int, list[Any]]] = []  # lists that are not whole yet, and how long they will be

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        del self._data[: self._at]
        self._at = 0
        self._data += data

    def take(self) -> Any:
        """Return the next value, or ``MORE``.

        Raises:
            RefusedError: It is an error of the store.
            ValueError: It has no form that is known here, or is larger than any is.
        """
        while (value := self._next()) is not MORE:
            while self._open:
                size, items = self._open[-1]
                items.append(value)
                if len(items) < size:
                    break
                self._open.pop()
                value = items
            else:
                return value
        return MORE

    def _next(self) -> Any:
        """Return the next value that is no list, or an empty one; open the lists before it."""
        data = self._data
        while True:
            end = data.find(b"\r\n", self._at)
            if end < 0:
                if len(data) - self._at > MAX_LINE:
                    raise ValueError("a line too long")
                return MORE
            kind, line, begins = data[self._at], data[self._at + 1 : end], end + 2
            if kind not in LISTS:
                return self._scalar(kind, line, begins)
            size = int(line)
            if size > MAX_ITEMS or len(self._open) >= MAX_DEPTH:
                raise ValueError("a list too long, or too deep")
            self._at = begins
            if size < 1:
                return [] if size == 0 else None
            self._open.append((size, []))

    def _scalar(self, kind: int, line: bytearray, begins: int) -> Any:
        value: Any
        if kind == ord("$"):
            size = int(line)
            if size > MAX_BULK:
                raise ValueError("a text too long")
            if size >= 0 and len(self._data) < begins + size + 2:
                return MORE
            value = bytes(self._data[begins : begins + size]) if size >= 0 else None
            begins += size + 2 if size >= 0 else 0
        elif kind == ord(":"):
            value = int(line)
        elif kind == ord("+"):
            value = bytes(line)
        elif kind == ord("_"):
            value = None
        elif kind == ord("-"):
            raise RefusedError(line[:500].decode("utf-8", "replace"))
        else:
            raise ValueError("a value of an unknown kind")
        self._at = begins
        return value
