# SPDX-License-Identifier: Apache-2.0
"""Seal the root keys with another passphrase or key file; the keys stay what they are.  SPEC 9.

The file comes first.  It holds the seal before as well, sealed with the new one, so that from then on the new
passphrase or key file opens everything, whatever the database still has; then the database's keys are sealed anew in
one transaction.  A crash anywhere leaves keys that open with what opened them before or with the new one, and the same
command does the rest.  A mint that runs holds its keys in memory and notices nothing.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from arx_caps.keyfile import replace_secret
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.root_keys import RootKeys, read_key_file, write_key_file
from arx_caps.realm import Realm
from arx_verifier.errors import SettingsError
from arx_verifier.token import KEY_BYTES


class Resealed(NamedTuple):
    """What was sealed anew.

    Attributes:
        keys: The names of the root keys.
        old_key_file: Where the key file is kept that opened them before; None where there was none.
    """

    keys: tuple[str, ...]
    old_key_file: Path | None


def reseal(realm: Realm, *, passphrase: str | None, new_passphrase: str | None) -> Resealed:
    """Seal a realm's root keys anew, those of the file and those of the database.

    Args:
        realm: The realm, with the database that its mints share.
        passphrase: Opens them now, where a passphrase seals them.
        new_passphrase: Opens them from now on; a fresh key file, ``keys/root.key``, where it is None.

    Raises:
        SettingsError: They do not open, somebody else does it now, or a file cannot be written.
        StoreError: The database does not answer: the new passphrase or key file opens everything, and what is in the
            database is sealed as before.
    """
    with _alone(realm.root_path.parent), MintDatabase(realm.database_url, writer="reseal") as db:
        db.create()
        before = _load(realm, passphrase, new_passphrase)
        for sealed in db.keys.sealed_roots():
            before.again(sealed)  # nothing is touched before all of them are known to open
        if new_passphrase is None:
            fresh, key_path = secrets.token_bytes(KEY_BYTES), realm.root_key_path
            # Until the file is replaced it opens with an older line.
            write_key_file(key_path, [fresh, *(read_key_file(key_path) if key_path.exists() else ())])
            _sync(key_path.parent)
        content, after = before.sealed_anew(passphrase=new_passphrase, key_path=realm.root_key_path)
        replace_secret(realm.root_path, content)
        _sync(realm.root_path.parent)
        names = tuple(dict.fromkeys((*after.names, *(sealed.name for sealed in db.keys.sealed_roots()))))
        seal = "key file" if new_passphrase is None else "passphrase"
        what = Event.of("key.resealed", f"host:uid-{os.getuid()}", keys=list(names), seal=seal)
        db.keys.reseal_roots(after.again, what)
        return Resealed(names, _put_away(realm.root_key_path, keep_first=new_passphrase is None))


def _load(realm: Realm, passphrase: str | None, new_passphrase: str | None) -> RootKeys:
    """Open the file; with the new passphrase where a run that was ended in between has sealed it already."""
    try:
        return RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    except SettingsError:
        if new_passphrase is None:
            raise
        with contextlib.suppress(SettingsError):
            return RootKeys.load(
                realm.root_path, realm=realm.name, passphrase=new_passphrase, key_path=realm.root_key_path
            )
        raise


def _put_away(path: Path, *, keep_first: bool) -> Path | None:
    """Move what opened the keys before out of the key file, and keep it beside: backups from before need it."""
    if not path.exists():
        return None
    found, old = read_key_file(path), path.with_name(path.name + ".old")
    stays, goes = (found[:1], found[1:]) if keep_first else ([], found)
    if goes:
        kept = read_key_file(old) if old.exists() else []
        write_key_file(old, list(dict.fromkeys((*goes, *kept))))
        _sync(path.parent)
    if stays:
        write_key_file(path, stays)
    else:
        path.unlink()
    return old if goes else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one who seals the keys of a folder: of two the later would not know what the other sealed with."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"somebody else seals the keys in {folder} now; wait until that is done") from error
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, before something that relies on them."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
