# SPDX-License-Identifier: Apache-2.0
"""Private files that are written whole or not at all, and what is on the disk after a crash."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from arx_verifier._platform import O_CLOEXEC


@contextlib.contextmanager
def written_beside(path: Path, content: bytes, *, durable: bool = True) -> Iterator[Path]:
    """Write a file of mode 0600 beside another one, to be renamed or linked to its name; it is removed at the end.

    Args:
        path: The file that it is to become, of which no reader must see a part.
        content: Its bytes.
        durable: Whether to sync the file to disk.

    Raises:
        OSError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Sync a file or a folder to disk: a rename survives a crash after a sync of its folder."""
    handle = os.open(path, os.O_RDONLY | O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
