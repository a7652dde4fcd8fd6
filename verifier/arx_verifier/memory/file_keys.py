# SPDX-License-Identifier: Apache-2.0
"""Open the memory of a service file, and keep its keys as the file has them.  SPEC 18.3."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import MemoryKeys
from arx_verifier.service import identify_file, keys_of, read_service_file
from arx_verifier.verification.verifier import Verifier

LOOK_NS: Final = 1_000_000_000  # between two looks at the file: a new key stamps from then on
_log = logging.getLogger(__name__)


class FileMemoryKeys(MemoryKeys):
    """The memory keys of a service file, read again when the file has changed.

    Args:
        path: The service file.

    Raises:
        SettingsError: The file is unusable, or has no memory key.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen, self._looked_ns = identify_file(self._path), time.monotonic_ns()
        super().__init__(_read(self._path))

    def look(self) -> None:
        """Read the file again if it has changed; an unusable file changes nothing."""
        now = time.monotonic_ns()
        if now - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now
        seen = identify_file(self._path)
        if seen is None or seen == self._seen:
            return
        self._seen = seen
        try:
            self.replace(_read(self._path))
        except SettingsError as error:
            _log.error("the memory keys stay as they were: %s", error)


def open_memory(path: str | os.PathLike[str], verifier: Verifier, marks: Sequence[str] = ()) -> Memory:
    """Return the memory of a service file.

    Args:
        path: The service file of the audience ``memory``.
        verifier: The verifier of that file: its view of the epoch, and its journal.
        marks: As of ``Memory``.

    Raises:
        SettingsError: The file is unusable, or has no memory key.
    """
    return Memory(FileMemoryKeys(path), verifier.epochs, verifier.decisions, marks)


def _read(path: Path) -> dict[str, bytes]:
    return keys_of(read_service_file(path).memory, path)
