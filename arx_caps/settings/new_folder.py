# SPDX-License-Identifier: Apache-2.0
"""Fill a realm's new folder, whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError

HALF_MADE: Final = ".init"  # in the folder, while it is filled


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, whose parts go into a realm's folder at the end, ``realm.toml`` last.

    After an error while it is filled none does.  Without ``realm.toml`` the folder is no realm.

    Args:
        path: The realm's folder, which must not exist, or must belong to this user and be empty.

    Raises:
        SettingsError: The folder is in use, or cannot be written.
    """
    half_made, is_new = path / HALF_MADE, not path.exists()
    try:
        _require_empty(path)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        half_made.mkdir(mode=0o700)
    except OSError as error:
        raise SettingsError(f"{path} cannot be created: {error.strerror}") from error
    # Whole or not at all.  It is filled inside, as a user may own a mounted volume and not the folder that holds it.
    try:
        _require_empty(path, but=half_made)  # another one may have begun, and ended, since the first look
        yield half_made
        # The settings are last: a folder with them is a realm.
        for part in sorted(half_made.iterdir(), key=lambda part: part.name == "realm.toml"):
            part.rename(path / part.name)
    except OSError as error:
        raise SettingsError(f"{path} cannot be created: {error.strerror}") from error
    finally:
        shutil.rmtree(half_made, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty: it is a realm
                path.rmdir()


def _require_empty(path: Path, *, but: Path | None = None) -> None:
    if not path.exists():
        return
    found = [entry.name for entry in path.iterdir() if entry != but] if path.is_dir() else ["no folder"]
    if HALF_MADE in found:
        hint = f"if no `arx init` or `arx restore` runs, remove {path} and run it again"
        raise SettingsError(f"{path} is being filled by another process, or one that was interrupted", hint=hint)
    if found:
        raise SettingsError(
            f"{path} exists and is not empty ({min(found)}): name another folder, as a realm is not overwritten"
        )
    if path.stat().st_uid != os.geteuid():  # who could replace each file of the realm
        raise SettingsError(f"{path} belongs to another user: name a folder inside it, or change its owner")
