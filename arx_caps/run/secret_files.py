# SPDX-License-Identifier: Apache-2.0
"""Secrets of ARx in folders that a command is about to read."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arx_caps.settings.realm import DEFAULT_FOLDER, default_folder
from arx_verifier.token import wire

_TEXTS: Final = (wire.BUNDLE_PREFIX.encode(), wire.TOKEN_PREFIX.encode())
_MOST_BYTES: Final = 1 << 16


def secret_files(*places: Path) -> Iterator[Path]:
    """Yield realms, and files of bundles, tokens, sessions and keys.

    Args:
        places: Files, and folders whose own files are read; not those of their folders.
    """
    yield from (
        path for path in (default_folder(os.environ), *(each / DEFAULT_FOLDER for each in places)) if path.is_dir()
    )
    for place in places:
        for path in place.iterdir() if place.is_dir() else (place,):
            with contextlib.suppress(OSError):  # such as a link to nothing
                # What others can read ARx takes for no secret, and refuses to use.
                is_private = stat.S_ISREG((about := path.stat()).st_mode) and not about.st_mode & 0o077
                if is_private and about.st_size <= _MOST_BYTES and _is_secret(path.read_bytes()):
                    yield path


def _is_secret(data: bytes) -> bool:
    if data.startswith(_TEXTS):
        return True
    try:
        found = json.loads(data)
    except ValueError:
        return False
    key = found.get("key", found) if isinstance(found, dict) else None
    return isinstance(key, dict) and {"kty", "d"} <= key.keys()
