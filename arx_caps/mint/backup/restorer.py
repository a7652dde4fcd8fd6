# SPDX-License-Identifier: Apache-2.0
"""Restore a backup into an empty place, and try one.  CONTROL 8.2, 8.3.

Nothing of a backup is used before its manifest is authenticated; nothing is in its place before all of it was checked.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from arx_caps.audit.integrity.check import Answered
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.key_change import KEY_CHANGES
from arx_caps.audit.merkle.paths import CHECKPOINT, Tile
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.credentials.keyfile import read_secret, write_secret
from arx_caps.credentials.secret_source import is_set
from arx_caps.credentials.whole_files import sync_path
from arx_caps.database.engines import database_errors, open_engine
from arx_caps.mint.audit.log import CheckedLog, check_log
from arx_caps.mint.backup.archive import ArchiveReader, Part
from arx_caps.mint.backup.manifest import Manifest, read_manifest
from arx_caps.mint.backup.restored_state import Revoked, revoke_unknown
from arx_caps.mint.backup.tables import (
    FOLDER,
    ROWS,
    Progress,
    copy_in,
    in_schema,
    make_tables,
    move_tables,
    require_empty,
    set_number,
)
from arx_caps.mint.backup.writer import DATABASES, LOG, SETTINGS
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.log_key import open_log_key, read_log_keys
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.new_folder import new_folder
from arx_caps.settings.realm import ROOT_KEY_VARIABLE, Realm, without_password
from arx_verifier.errors import SettingsError

ROOT: Final = "keys/root.json"
SCHEMA: Final = "arx_restore"  # of PostgreSQL, while a backup is read into it
LOCK: Final = 0x61727B  # of an advisory lock; no other part of ARx uses this number
WHAT: Final = "the database to restore into"
_DATABASE_LINE: Final = re.compile(r"^database\s*=.*$", re.MULTILINE)
_TRY_ELSEWHERE: Final = "give the `keys/root.key` of that time with --root-key-file, or the passphrase"


class Secrets(NamedTuple):
    """What opens the root keys of a backup, which has no such secret itself.

    Attributes:
        passphrase: The passphrase, or None.
        key_file: The realm's ``keys/root.key``, which wins over ``ARX_ROOT_KEY``; None for that.
    """

    passphrase: str | None
    key_file: Path | None


class Restored(NamedTuple):
    """The result of a restore, or of a drill.

    Attributes:
        manifest: What the backup has.
        checked: The log's records that were compared with what was signed.
        revoked: What does not go on; None for a drill.
    """

    manifest: Manifest
    checked: CheckedLog
    revoked: Revoked | None = None


def restore_backup(
    file: Path,
    folder: Path,
    secrets: Secrets,
    *,
    database: str | None = None,
    keep_operator_keys: bool = False,
    before: Callable[[Realm], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Restored:
    """Restore a backup into a new realm folder, and into an empty database if it is of PostgreSQL.

    Args:
        file: The backup.
        folder: The realm's folder, which must not exist, or must be empty.
        secrets: What opens the root keys.
        database: The URL of an empty PostgreSQL database, for a backup of one.
        keep_operator_keys: As for ``revoke_unknown``.
        before: Called with the settings of the backup, to refuse while a mint of the realm runs.
        progress: Called now and then with how many records of the log are checked, of how many.

    Raises:
        SettingsError: A place is not empty, or the secret, the version or the kind of database is not that of the
            backup.
        TamperedError: The backup, or the log in it, was changed.
        IncompleteError: A part is missing.
        NoteError: The log's checkpoint is malformed.
        StoreError: The database did not answer.
    """
    with new_folder(folder) as half_made, _unpacked(file, half_made, secrets, database) as place:
        before(Realm.open(half_made))
        checked = place.check(progress)
        if secrets.key_file is not None:  # it has opened the keys
            write_secret(half_made / "keys" / "root.key", read_secret(secrets.key_file))
        revoked = place.finish(keep_operator_keys=keep_operator_keys)
    sync_path(folder)
    return Restored(place.manifest, checked, revoked)


def try_backup(
    file: Path,
    secrets: Secrets,
    *,
    realm: Realm,
    progress: Progress = lambda *_: None,
) -> Restored:
    """Restore a backup of a realm into a temporary place, check it there, and remove it.

    Args:
        file: The backup.
        secrets: What opens the root keys.
        realm: The realm, whose database a backup of PostgreSQL gets a schema in for that time.
        progress: As for ``restore_backup``.

    Raises:
        SettingsError: As ``restore_backup``, or the backup is of another realm.
    """
    with tempfile.TemporaryDirectory(prefix="arx-drill-") as folder:
        database = realm.database_url if realm.database else None
        with _unpacked(file, Path(folder), secrets, database, drill_of=realm.name) as place:
            return Restored(place.manifest, place.check(progress))


class RestoredFolder:
    """The place that a backup was read into, and that is no realm yet.

    Args:
        folder: The folder with its files.
        manifest: What the backup has.
        roots: Its root keys.

    Attributes:
        manifest: What the backup has.
    """

    def __init__(self, folder: Path, manifest: Manifest, roots: RootKeys) -> None:
        self._folder, self.manifest, self._roots = folder, manifest, roots
        self.mint_url, self.log_url = (f"sqlite:///{folder / name}" for name in DATABASES)

    def check(self, progress: Progress) -> CheckedLog:
        """Check keys, databases and log as ``arx audit check`` does, and every signed checkpoint in the database.

        Raises:
            TamperedError: They are not what was signed.
            IncompleteError: A part is missing.
            SettingsError: A sealed row does not open, or the settings are not usable.
        """
        Realm.open(self._folder)
        key_path = self._folder / "keys" / "log.json"
        signer, keys = open_log_key(key_path, self._roots), read_log_keys(key_path)
        with MintDatabase(self.mint_url) as db, LogStore(self.log_url) as store:
            db.create()
            db.require_whole()
            for sealed in (*db.keys.sealed_roots(), *db.keys.sealed_secrets()):
                self._roots.unseal(sealed)
            store.create()
            if store.size() != self.manifest.records:
                raise TamperedError(f"the log's database does not have {self.manifest.records} records")
            log = self._folder / "log"
            # Records that were taken after the files were read: the database's last checkpoint is signed as well.
            held = Publisher(store, signer, log, keys=keys).hold()
            if self.manifest.signed == 0 == held:
                return CheckedLog(0, Answered(0, 0, 0))
            return check_log(store, log, keys, db, progress)

    def finish(self, *, keep_operator_keys: bool) -> Revoked:
        """Revoke what may have been revoked after the backup, and bring all of it to the disk."""
        with MintDatabase(self.mint_url, writer="restore") as db:
            with db.write() as c:
                revoked = revoke_unknown(c, db, self.manifest, keep_operator_keys=keep_operator_keys)
            db.settle()
        with LogStore(self.log_url) as store:
            store.settle()
        os.sync()  # of thousands of files, each would take longer
        return revoked


class RestoredPostgres(RestoredFolder):
    """The same, with the rows in a schema of their own until all of it was checked.

    Args:
        folder: As for ``RestoredFolder``.
        manifest: The same.
        roots: The same.
        engine: The database.
        url: Its URL.
    """

    def __init__(self, folder: Path, manifest: Manifest, roots: RootKeys, engine: Engine, url: str) -> None:
        super().__init__(folder, manifest, roots)
        self._engine, self._url = engine, url
        self.mint_url = self.log_url = in_schema(url, SCHEMA)

    def check(self, progress: Progress) -> CheckedLog:
        """Name the database in ``realm.toml``, and check as of SQLite."""
        settings, url = self._folder / "realm.toml", without_password(self._url)
        line, text = f"database = {json.dumps(url)}", settings.read_text("utf-8")
        text, found = _DATABASE_LINE.subn(lambda _: line, text, count=1)
        if not found:  # it was given by ARX_DATABASE or --database
            text = f"{line}\n{text}"
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(text).get("database") == url:
                settings.write_text(text, "utf-8")
                return super().check(progress)
        raise SettingsError("realm.toml of the backup cannot name another database: write `database` on a line alone")

    def finish(self, *, keep_operator_keys: bool) -> Revoked:
        """Revoke, and move the tables to where a mint looks for them, in one transaction."""
        os.sync()
        with MintDatabase(self.mint_url, writer="restore") as db, database_errors(WHAT), self._engine.begin() as c:
            own = c.exec_driver_sql("SHOW search_path").scalar_one()
            c.exec_driver_sql(f"SET LOCAL search_path TO {SCHEMA}")
            revoked = revoke_unknown(c, db, self.manifest, keep_operator_keys=keep_operator_keys)
            c.exec_driver_sql(f"SET LOCAL search_path TO {own}")
            # Never without the revocations: a mint could serve these tables at once.
            move_tables(c, SCHEMA)
        return revoked


@contextlib.contextmanager
def _unpacked(
    file: Path, folder: Path, secrets: Secrets, database: str | None, *, drill_of: str | None = None
) -> Iterator[RestoredFolder]:
    """Read a backup into a folder, and its rows into a schema of a database; of one realm alone for a drill."""
    try:
        with file.open("rb") as content:
            archive = ArchiveReader(content)
            roots = _open_roots(archive, folder, secrets)
            manifest = read_manifest(archive, roots)
            if drill_of not in (None, manifest.realm):
                raise SettingsError(f"the backup is of the realm {manifest.realm}, not of {drill_of}")
            if (manifest.system == "postgresql") != (database is not None):
                raise _wrong_kind(manifest, is_drill=drill_of is not None)
            wanted = DATABASES if manifest.system == "sqlite" else ()
            for name in (*SETTINGS, *wanted):
                if name not in manifest.files:
                    raise IncompleteError(f"the backup has no {name}")
            for each in ("log", "valkey", "ledger", "journals", "services"):
                (folder / each).mkdir(mode=0o700)
            for name, part in manifest.files.items():
                if name == ROOT:  # is there already
                    raw = (folder / ROOT).read_bytes()
                    if Part(len(raw), hashlib.sha256(raw).hexdigest()) != part:
                        raise TamperedError(f"the part {name} of the backup is not what was backed up")
                elif database is None or not name.startswith(FOLDER):
                    _extract(archive, name, part, folder, wanted)
            if database is None:
                yield RestoredFolder(folder, manifest, roots)
                return
            with _schema(database, must_be_empty=drill_of is None) as engine:
                _read_rows(archive, manifest, in_schema(database, SCHEMA))
                yield RestoredPostgres(folder, manifest, roots, engine, database)
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: {error.strerror or error}") from error


def _open_roots(archive: ArchiveReader, folder: Path, secrets: Secrets) -> RootKeys:
    """Open the root keys of a backup, which is not authenticated yet: they authenticate it."""
    raw = archive.small(ROOT, limit=1024 * 1024)
    (folder / "keys").mkdir(mode=0o700)
    write_secret(folder / ROOT, raw)
    if secrets.key_file is None and secrets.passphrase is None and not is_set(ROOT_KEY_VARIABLE):
        raise SettingsError("the backup has no secret that opens its keys", hint=_TRY_ELSEWHERE)
    try:
        realm = str(json.loads(raw)["realm"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TamperedError("the backup's root keys are damaged") from None
    try:
        return RootKeys.load(
            folder / ROOT,
            realm=realm,
            passphrase=secrets.passphrase,
            key_path=secrets.key_file or folder / "keys" / "root.key",
            is_named=secrets.key_file is not None,
        )
    except SettingsError as error:
        message = "the backup's root keys do not open with this passphrase or key file, or were changed"
        raise SettingsError(message, hint=_TRY_ELSEWHERE) from error


def _extract(archive: ArchiveReader, name: str, part: Part, folder: Path, databases: tuple[str, ...]) -> None:
    """Write a part to the one place that a part of its name can have.

    Raises:
        TamperedError: A backup has no part of this name, or it is not what was backed up.
    """
    if name not in (*SETTINGS, *databases):
        inner = name.removeprefix(LOG)
        try:
            if inner == name or (inner not in (CHECKPOINT, KEY_CHANGES) and Tile.parse(inner).path != inner):
                raise NoteError(name)
        except NoteError:
            raise TamperedError(f"a backup has no part {name}") from None
    path = folder / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        for chunk in archive.chunks(name, part):
            file.write(chunk)


def _read_rows(archive: ArchiveReader, manifest: Manifest, url: str) -> None:
    """Write the rows of a backup into an empty schema.

    Raises:
        IncompleteError: The rows of a table are missing.
        TamperedError: A part is no table's, or is not what was backed up.
    """
    named = {name for name in manifest.files if name.startswith(FOLDER)}
    if strange := named.difference(ROWS):
        raise TamperedError(f"a backup has no part {min(strange)}")
    if missing := set(ROWS).difference(named):
        raise IncompleteError(f"the backup has no {min(missing)}")
    engine = open_engine(url)
    try:
        # Two transactions: the first holds the locks that a mint of this database starts with.
        with database_errors(WHAT), engine.begin() as c:
            make_tables(c, manifest)
        with database_errors(WHAT), engine.begin() as c:
            for name, table in ROWS.items():
                chunks = archive.chunks(name, manifest.files[name])
                try:
                    copy_in(c, table, chunks)
                except SQLAlchemyError:
                    for _ in chunks:  # a part that was changed is refused as that, whatever the database took it for
                        pass
                    raise
            set_number(c, manifest)
    finally:
        engine.dispose()


def _wrong_kind(manifest: Manifest, *, is_drill: bool) -> SettingsError:
    if is_drill:
        hint = "name the database that the mints use, by ARX_DATABASE or --database if realm.toml does not"
        return SettingsError(
            f"the backup is of {manifest.system}, and the realm's database is of another kind", hint=hint
        )
    if manifest.system == "sqlite":
        message = "the backup is of SQLite, which is in the realm's folder, and not of PostgreSQL"
        return SettingsError(message, hint="give `--into DIR` alone")
    message = "the backup is of PostgreSQL: expected an empty database"
    return SettingsError(message, hint="add `--into postgresql://USER@HOST/NAME`")


@contextlib.contextmanager
def _schema(url: str, *, must_be_empty: bool) -> Iterator[Engine]:
    """Make a schema in a PostgreSQL database, for one process at a time, and drop it unless it was moved.

    Raises:
        SettingsError: The database has tables and must have none, or another restore uses it.
    """
    engine = open_engine(url)
    try:
        with database_errors(WHAT), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as held:
            if not held.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK})").scalar():
                raise SettingsError("another restore or drill uses this database: wait for its end")
            if must_be_empty:
                require_empty(held)
            _drop(held)  # what an interrupted one left
            held.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
            try:
                yield engine
            finally:
                _drop(held)
    finally:
        engine.dispose()


def _drop(connection: Connection) -> None:
    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
