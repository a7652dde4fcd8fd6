# SPDX-License-Identifier: Apache-2.0
"""The mint's own record: one JSON line for each change of state, on the disk before the change is answered.

Lines are only ever appended.  Ids go in, tokens and keys never do.  What verifiers decide stands in their journals.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

from arx_caps.mint.state import now_ms
from arx_verifier.errors import AuditError

FILE_NAME: Final = "mint-events.jsonl"


class EventLog:
    """The file of events.  Opened with the first one; any thread may record.

    Args:
        path: The file; made if it is not there, for this user only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._lock = threading.Lock()

    def record(self, kind: str, by: str, **facts: Any) -> None:
        """Append one event.

        Args:
            kind: What happened, such as ``session.opened``.
            by: Who did it: ``operator:<id>``, ``agent:<path>`` or ``mint``.
            facts: Ids and settings; no secret.

        Raises:
            AuditError: It is not on the disk; the change must not be answered as done.
        """
        line = json.dumps({"at_ms": now_ms(), "kind": kind, "by": by, **facts}, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                file = self._open()
                written = os.write(file, line)
                os.fsync(file)
        except OSError as error:
            raise AuditError(f"the mint's record {self.path} cannot be written: {error.strerror}") from error
        if written != len(line):
            raise AuditError(f"the mint's record {self.path} took only a part of a line; the disk is full")

    def check(self) -> None:
        """Find out whether events can be recorded.

        Raises:
            AuditError: They cannot.
        """
        try:
            with self._lock:
                self._open()
        except OSError as error:
            raise AuditError(f"the mint's record {self.path} cannot be opened: {error.strerror}") from error

    def close(self) -> None:
        """Let the file go; a later event opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        if self._file is not None and not self._is_there(self._file):
            os.close(self._file)  # moved away or removed: nobody would find what is written there
            self._file = None
        if self._file is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
            _sync_folder(self.path.parent)
        # A line that was cut by a crash or a full disk must not swallow the next one.
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
        return self._file

    def _is_there(self, file: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(file))
        except FileNotFoundError:
            return False


def _sync_folder(folder: Path) -> None:
    """Have a new file's name on the disk as well."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
