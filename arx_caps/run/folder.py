# SPDX-License-Identifier: Apache-2.0
"""The folder of a run, and those that killed runs have left."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "arx-run-"
_LOCK: Final = "lock"  # of the run's process, which the kernel ends with it
_MOST_BYTES: Final = 55  # of the path in which it is: the path of a Unix socket in it has at most 103


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Yield a folder that only this user can enter, and remove it at the end; first, remove those of killed runs."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _MOST_BYTES:
        place = "/tmp"  # noqa: S108 - the folder is of this user alone
    for left in Path(place).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, RecursionError):  # such as of a run that goes on
            _remove_left(left)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as name, (Path(name) / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        yield Path(name)


def _remove_left(folder: Path) -> None:
    if folder.lstat().st_uid != os.geteuid():
        return
    with (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock.read():  # else its run is about to lock it
            shutil.rmtree(folder)
