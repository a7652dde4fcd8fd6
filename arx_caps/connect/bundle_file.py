# SPDX-License-Identifier: Apache-2.0
"""The file of a task's bundle, followed while a bridge runs: a task that is extended needs no restart of the client."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from arx_caps.agent import Task
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.token.holder import HolderKey

_HINT: Final = "`arx task start`, `arx task extend` and `arx token delegate` write a bundle with `--out FILE`"
_log = logging.getLogger(__name__)


class BundleFile:
    """The task in a file that only its owner can read, narrowed to some tools.

    Args:
        path: The file.
        only: Tools or patterns to leave; none leaves them all.
        key: The key that a bound task is bound to.

    Raises:
        SettingsError: The file cannot be read, or other users can read it.
        MalformedTokenError: It holds no bundle.
        AttenuationError: The task has none of the tools.
    """

    def __init__(self, path: Path, only: Sequence[str] = (), key: HolderKey | None = None) -> None:
        self._path, self._only, self._key = path, only, key
        self._seen = self._stamp()
        self._task = self._read()

    @property
    def task(self) -> Task:
        """The task as the file has it now; the former one where the file became unreadable."""
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._task = self._read()
            except ArxError as error:  # it names the file, and never what is in it
                _log.warning("the changed bundle is not used: %s", error)
        return self._task

    def _read(self) -> Task:
        try:
            task = Task.load(self._path, key=self._key)
        except MalformedTokenError as error:
            raise MalformedTokenError(f"{self._path}: {error}", hint=_HINT) from None
        return task.attenuate(tools=list(self._only)) if self._only else task

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
