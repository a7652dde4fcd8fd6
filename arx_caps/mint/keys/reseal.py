# SPDX-License-Identifier: Apache-2.0
"""Seal root keys and log key with another passphrase or key file; the keys stay the same. SPEC 9."""

# The file and the rows of the database cannot change in one transaction. The file is replaced first. It holds the seals
# before, sealed with the new one, so that from then on the new passphrase or key file opens every row, old or new. Then
# the rows are sealed again in one transaction. After a crash at any point the keys open with the old or with the new
# passphrase or key file, and the same command finishes the work. A running mint has its keys in memory.

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from arx_caps.credentials.keyfile import replace_secret
from arx_caps.credentials.secret_source import is_set
from arx_caps.credentials.whole_files import sync_path
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.log_key import reseal_log_key
from arx_caps.mint.keys.root_keys import RootKeys, read_key_file, write_key_file
from arx_caps.settings.realm import ROOT_KEY_VARIABLE, Realm
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import FILE_SUFFIX
from arx_verifier.token.keyring import KEY_BYTES


class Resealed(NamedTuple):
    """The root keys that were sealed again.

    Attributes:
        keys: Their names.
        old_key_file: Where the lines of the key file before are kept; None if there was none.
    """

    keys: tuple[str, ...]
    old_key_file: Path | None


def reseal(realm: Realm, *, passphrase: str | None, new_passphrase: str | None) -> Resealed:
    """Seal a realm's root keys again, those of the file and those of the database, and the key of its log.

    Args:
        realm: The realm, with the database that its mints share.
        passphrase: Opens the keys now, if a passphrase seals them.
        new_passphrase: Opens the keys from now on; None for a new key file, ``keys/root.key``.

    Raises:
        SettingsError: The keys do not open, another process reseals them, or a file cannot be written.
        StoreError: The database did not answer. The new passphrase or key file opens everything; the rows have the
            seal before.
    """
    if new_passphrase is None and is_set(ROOT_KEY_VARIABLE):
        # The next start would open the new seal with the key of before.
        hint = f"unset it and {ROOT_KEY_VARIABLE}{FILE_SUFFIX}, put the key into {realm.root_key_path}, and repeat"
        raise SettingsError(f"the root key is given by {ROOT_KEY_VARIABLE}, which this command cannot write", hint=hint)
    with lock_folder(realm.root_path.parent), MintDatabase(realm.database_url, writer="reseal") as db:
        db.create()
        before = _load(realm, passphrase, new_passphrase)
        for sealed in (*db.keys.sealed_roots(), *db.keys.sealed_secrets()):
            before.reseal(sealed)  # every row must open before anything is changed
        reseal_log_key(realm.log_key_path, before)
        if new_passphrase is None:
            fresh, key_path = secrets.token_bytes(KEY_BYTES), realm.root_key_path
            # The new line first, the old lines after it: until the file is replaced, it opens with an old line.
            write_key_file(key_path, [fresh, *(read_key_file(key_path) if key_path.exists() else ())])
            sync_path(key_path.parent)
        content, after = before.seal(passphrase=new_passphrase, key_path=realm.root_key_path)
        replace_secret(realm.root_path, content)
        reseal_log_key(realm.log_key_path, before, after)  # until then it opens with an older seal of the file
        sync_path(realm.root_path.parent)
        names = tuple(dict.fromkeys((*after.names, *(sealed.name for sealed in db.keys.sealed_roots()))))
        seal = "key file" if new_passphrase is None else "passphrase"
        what = Event.of("key.resealed", f"host:uid-{os.getuid()}", keys=list(names), seal=seal)
        db.keys.reseal_roots(after.reseal, what)
        return Resealed(names, _archive_old_lines(realm.root_key_path, keep_first=new_passphrase is None))


def _load(realm: Realm, passphrase: str | None, new_passphrase: str | None) -> RootKeys:
    """Open the file with the passphrase, or with the new one."""
    try:
        return RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    except SettingsError:
        if new_passphrase is None:
            raise
        # A run before this one may have sealed the file with the new passphrase, and ended before it changed the rows.
        with contextlib.suppress(SettingsError):
            return RootKeys.load(
                realm.root_path, realm=realm.name, passphrase=new_passphrase, key_path=realm.root_key_path
            )
        raise


def _archive_old_lines(path: Path, *, keep_first: bool) -> Path | None:
    """Move the old lines of the key file to ``root.key.old``."""
    if not path.exists():
        return None
    lines, old = read_key_file(path), path.with_name(path.name + ".old")
    current, outdated = (lines[:1], lines[1:]) if keep_first else ([], lines)
    # Kept, because a backup of ``keys/`` from before opens with them alone.
    if outdated:
        kept = read_key_file(old) if old.exists() else []
        write_key_file(old, list(dict.fromkeys((*outdated, *kept))))
        sync_path(path.parent)
    if current:
        write_key_file(path, current)
    else:
        path.unlink()
    return old if outdated else None


@contextlib.contextmanager
def lock_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a key folder.

    Args:
        folder: The folder.
        shared: Whether others may hold it too, because none of them changes a key.

    Raises:
        SettingsError: The folder cannot be opened, or another process holds its lock.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        try:
            # Two processes at once: the second would write a file without the seal that the first has used for the
            # rows.
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "reseals" if shared else "reseals or backs up"
            raise SettingsError(f"another process {what} the keys in {folder}: wait until it is done") from error
        yield
    finally:
        os.close(handle)
