# SPDX-License-Identifier: Apache-2.0
"""What a server over stdio writes to its standard error, as lines of the gateway's log that name it."""

import asyncio
import logging
from typing import Final

from arx_caps.gateway.base.leaks import Leaks

_CHUNK_BYTES: Final = 64 * 1024
_LONGEST: Final = 2_000  # characters of a line
_KEPT_BYTES: Final = 4 * _LONGEST  # of a line without an end: more than is logged, so that no cut hides a secret
_LINES: Final = 100  # in each time, so that a server cannot fill the log
_TIME_S: Final = 10.0

_log = logging.getLogger(__name__)


class StdioLog:
    """Logs the lines of one process.

    Args:
        name: The upstream's name, which each line has.
        leaks: Finds secrets, whose lines are not logged.
    """

    def __init__(self, name: str, leaks: Leaks) -> None:
        self._name, self._leaks = name, leaks
        self._until, self._count = 0.0, 0

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Log what a stream has until its end.

        Args:
            stream: The standard error of the process.
        """
        kept, is_rest = bytearray(), False
        while chunk := await stream.read(_CHUNK_BYTES):
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                if not is_rest:
                    self._write(bytes(kept + line))
                kept.clear()
                is_rest = False
            if not is_rest:
                kept += rest
            if len(kept) > _KEPT_BYTES:
                self._write(bytes(kept))
                kept.clear()
                is_rest = True
        if kept:
            self._write(bytes(kept))

    def _write(self, line: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._until:
            self._until, self._count = now + _TIME_S, 0
        self._count += 1
        if self._count > _LINES:
            if self._count == _LINES + 1:
                _log.warning(
                    "upstream %s writes more than %d lines in %g s; the rest is left out", self._name, _LINES, _TIME_S
                )
            return
        if self._leaks.are_in(line):
            _log.warning("upstream %s wrote a line with a secret of its `env`; it is left out", self._name)
        elif text := _printable(line):
            _log.warning("upstream %s wrote: %s", self._name, text)


def _printable(line: bytes) -> str:
    """Return a line without what could move a terminal's cursor, or begin a line of its own."""
    text = line.decode(errors="replace").rstrip()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:_LONGEST])
    return shown + "…" if len(text) > _LONGEST else shown
