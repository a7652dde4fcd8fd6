# SPDX-License-Identifier: Apache-2.0
"""Make a backup of a realm while its mints serve.  CONTROL 8.1.

It has settings, policy, sealed keys, both databases, and the log's files.  It has neither the secret that opens the
keys nor the revocation store: an older store would bring killed tokens back.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from sqlalchemy.engine import make_url

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError
from arx_caps.audit.merkle.key_change import KEY_CHANGES
from arx_caps.audit.merkle.mirror import fetch_tile
from arx_caps.audit.merkle.paths import CHECKPOINT, files_of
from arx_caps.audit.merkle.tiles import fetch_from
from arx_caps.credentials.keyfile import read_secret
from arx_caps.credentials.whole_files import sync_path
from arx_caps.database.engines import database_errors, open_engine
from arx_caps.mint.audit.log import open_store
from arx_caps.mint.backup.archive import CHUNK, ArchiveWriter
from arx_caps.mint.backup.manifest import Manifest, write_manifest
from arx_caps.mint.backup.tables import ROWS, Progress, copy_out, copy_sqlite, describe
from arx_caps.mint.keys.log_key import open_log_key, read_log_keys
from arx_caps.mint.keys.reseal import lock_folder
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError, StoreError

SETTINGS: Final = ("realm.toml", "policy.toml", "keys/root.json", "keys/log.json")
DATABASES: Final = ("mint.db", "audit.db")
LOG: Final = "log/"  # what the names of the log's files begin with
_LOOK_FILES: Final = 64  # files between two calls of progress
_SNAPSHOT: Final = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class WrittenBackup(NamedTuple):
    """A backup that was made.

    Attributes:
        manifest: What it contains.
        bytes: The size of the file.
    """

    manifest: Manifest
    bytes: int


def make_backup(
    realm: Realm, roots: RootKeys, out: Path, *, replace: bool = False, progress: Progress = lambda *_: None
) -> WrittenBackup:
    """Make a backup; ``out`` is there once it is whole and on the disk.

    Args:
        realm: The realm.
        roots: Its root keys, opened; they authenticate the backup.
        out: The file to make, mode 0600.
        replace: Whether an existing file may be replaced.
        progress: Called now and then with how many bytes are done, of how many; 0 if unknown.

    Raises:
        SettingsError: The file exists, cannot be written, or another process makes it; a file of the realm is missing;
            or another process reseals its keys.
        StoreError: A database did not answer.
        NoteError: The log's checkpoint is malformed.
        TamperedError: The log's checkpoint is not signed by its key.
        IncompleteError: A file of the log is missing, or records that its checkpoint signs are not in the database.
    """
    if out.exists() and not replace:
        raise SettingsError(f"{out} exists, and is not overwritten", hint="name another file, or add --replace")
    try:
        with (
            lock_folder(realm.root_path.parent, shared=True),  # a reseal changes the file first, and then the rows
            _beside(out) as folder,
            open(folder / "archive", "w+b", opener=_private) as file,
        ):
            # A backup that its realm could not open is none.
            open_log_key(realm.log_key_path, roots)
            archive = ArchiveWriter(file)
            for name in SETTINGS:
                path = realm.folder / name
                archive.add(name, [read_secret(path) if name.startswith("keys/") else path.read_bytes()])
            # The log's files first, as their checkpoint is about rows of the databases; and the mint's database before
            # the log's, which has the mint's events.
            signed = _add_log(archive, realm, progress)
            facts = _add_databases(archive, realm, folder, progress)
            if facts.pop("checkpointed") and not signed:
                message = f"{realm.log_dir} has no checkpoint, and the log's database has one"
                raise IncompleteError(f"{message}: run this on a host where a mint of the realm runs")
            if facts["records"] < signed:  # no restore would take it
                raise IncompleteError(
                    f"the log's database has {facts['records']} records, and {signed} were signed: it is an older one; "
                    "run `arx audit reindex` first"
                )
            manifest = Manifest(
                realm=realm.name,
                issuer=realm.issuer,
                version=version("arx-caps"),
                origin=read_log_keys(realm.log_key_path).key.name,
                signed=signed,
                files=archive.parts,
                **facts,
            )
            write_manifest(archive, manifest, roots)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            _publish(folder / "archive", out, replace=replace)
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror or error}") from error
    return WrittenBackup(manifest, size)


def _add_log(archive: ArchiveWriter, realm: Realm, progress: Progress) -> int:
    """Add the log's files up to its checkpoint, and return the checkpoint's size; 0 without one."""
    fetch = fetch_from(realm.log_dir)
    # Read first, and written last as by the mint: the files below it are all there.
    note = fetch(CHECKPOINT)
    if note is None:
        return 0
    head = open_checkpoint(note, read_log_keys(realm.log_key_path)).checkpoint
    for number, tile in enumerate(files_of(head.size)):
        found = fetch_tile(fetch, tile)
        if found is not None:  # else it was pruned
            archive.add(LOG + found[0], [found[1]])
        if number % _LOOK_FILES == 0:
            progress(archive.size, 0)
    changes = fetch(KEY_CHANGES)
    if changes is not None:
        archive.add(LOG + KEY_CHANGES, [changes])
    archive.add(LOG + CHECKPOINT, [note])
    return head.size


def _add_databases(archive: ArchiveWriter, realm: Realm, folder: Path, progress: Progress) -> dict[str, Any]:
    with open_store(realm) as store:
        store.create()  # of a realm whose mint has never run
    if realm.database_url.startswith("sqlite:"):
        return _add_sqlite(archive, realm, folder, progress)
    engine = open_engine(realm.database_url)
    try:
        with (
            database_errors("the realm's database"),
            engine.connect().execution_options(**_SNAPSHOT) as c,
            c.begin(),
        ):
            facts = describe(c, c) | {"at_ms": now_ms(), "system": "postgresql"}
            for name, table in ROWS.items():
                archive.add(name, _counted(copy_out(c, table), archive, progress))
    finally:
        engine.dispose()
    return facts


def _add_sqlite(archive: ArchiveWriter, realm: Realm, folder: Path, progress: Progress) -> dict[str, Any]:
    used = make_url(realm.database_url).database
    if used is None or Path(used).resolve() != realm.database_path.resolve():
        hint = "move it there, and remove `database` from realm.toml"
        raise SettingsError(f"a backup has {realm.database_path}, and the mints use {used}", hint=hint)
    at_ms = now_ms()
    for source in (realm.database_path, realm.audit_path):
        try:
            copy_sqlite(source, folder / source.name, progress)
        except sqlite3.Error as error:
            raise StoreError(f"{source} cannot be copied: {error}") from error
    engines = [open_engine(f"sqlite:///{folder / name}") for name in DATABASES]
    try:
        with database_errors("the copy of the database"), engines[0].connect() as mint, engines[1].connect() as log:
            facts = describe(mint, log)
    finally:
        for engine in engines:
            engine.dispose()
    for name in DATABASES:
        with (folder / name).open("rb") as file:
            archive.add(name, _counted(_chunks(file), archive, progress))
        (folder / name).unlink()
    return facts | {"at_ms": at_ms, "system": "sqlite"}


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _counted(chunks: Iterator[bytes], archive: ArchiveWriter, progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress(archive.size, 0)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Make a private, empty folder beside a file that is to be made, for one process at a time.

    A killed process leaves it; the next one for the same file empties it.

    Raises:
        SettingsError: Another process makes the file, or the folder belongs to another user.
    """
    folder = out.with_name(f".{out.name}.part")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(handle)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise SettingsError(f"{folder} is not private to this user: remove it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another process writes {out}: wait for its end, or name another file") from None
        try:
            for left in folder.iterdir():
                left.unlink()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_CLOEXEC, 0o600)  # for any umask


def _publish(file: Path, out: Path, *, replace: bool) -> None:
    """Give a whole file its name."""
    if replace:
        file.replace(out)
    else:
        os.link(file, out)  # fails if it exists by now
    sync_path(out.parent)
