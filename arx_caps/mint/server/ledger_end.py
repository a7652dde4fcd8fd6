# SPDX-License-Identifier: Apache-2.0
"""End the ledger of ``arx up`` so that its next start knows that it has every draw.  SPEC 17.5, decision 0099.

The end seals the data, so that nothing changes any more, and notes the seal in the memory of the machine.  The next
start takes the note.  A copy of the data has no note, nor has a start after a crash or without power.
"""

import contextlib
import hashlib
import os
import secrets
from contextlib import closing
from pathlib import Path
from typing import Final

from arx_verifier.errors import ArxError
from arx_verifier.ledger.redis_ledger import RedisLedger

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - no other name can be guessed, and the kernel lets no other user remove it
_MOUNTS: Final = Path("/proc/self/mounts")
_TIMEOUT_S: Final = 5.0


def open_ledger(url: str, realm: str) -> bool:
    """Open a ledger whose server has just started; return whether the pools that it has go on.

    Args:
        url: Its URL.
        realm: The realm.

    Raises:
        StoreError: The server did not answer, so every call with a budget is refused.
    """
    with closing(RedisLedger(url, realm, timeout_s=_TIMEOUT_S)) as ledger:
        seal = ledger.sealed()
        # The note first: after it no other start can have it, also if this one ends here.
        return ledger.open(seal if seal and _take(seal) else "")


def end_ledger(url: str, realm: str, folder: Path) -> bool:
    """Seal a ledger before its server stops; return whether its pools go on after the next start.

    Args:
        url: Its URL.
        realm: The realm.
        folder: The folder of its data.
    """
    if not _forgets():
        return False
    _tidy()
    seal = secrets.token_hex(32)
    try:
        with closing(RedisLedger(url, realm, timeout_s=_TIMEOUT_S)) as ledger:
            if not ledger.seal(seal):
                return False
        # After the seal: a note of data that can still change would be of data that lack a draw.
        note = os.open(_note(seal), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(note, "wb") as file:
            file.write(os.fsencode(folder))
    except (ArxError, OSError):
        return False  # without a note the next start exhausts what is open
    return True


def _take(seal: str) -> bool:
    """Remove a seal's note; return whether it was there.  Of several starts one has it."""
    try:
        _note(seal).unlink()
    except OSError:
        return False
    return _forgets()


def _tidy() -> None:
    """Remove the notes of this user whose folder is gone: no start of it takes them, and they are in memory."""
    for note in MEMORY.glob("arx-ledger-*"):
        with contextlib.suppress(OSError):
            if note.is_symlink() or note.stat().st_uid != os.getuid():
                continue
            folder = note.read_bytes()
            if folder and not Path(os.fsdecode(folder)).exists():
                note.unlink()


def _note(seal: str) -> Path:
    # Every user can list the folder, so the name does not have the seal itself.
    return MEMORY / f"arx-ledger-{hashlib.sha256(seal.encode()).hexdigest()}"


def _forgets() -> bool:
    """Return whether the folder of notes ends with the machine's power: on a disk, a backup would have it too."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()]
    except OSError:
        return False
    kinds = [mount[2] for mount in mounts if mount[1] == str(MEMORY)]
    return kinds[-1:] == ["tmpfs"]  # the last one covers those before
