# SPDX-License-Identifier: Apache-2.0
"""Open a database, SQLite or PostgreSQL, and map its failures to ARx errors.

Tables are defined elsewhere; waits for PostgreSQL are bounded in ``bounded_waits``.
"""

import contextlib
import os
import select
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from arx_caps.database.commit_watch import CommitWatch
from arx_caps.installation import install_line
from arx_verifier.errors import GrantError, RequestError, SettingsError, StoreError
from arx_verifier.revocation.password import FILE_SUFFIX, PasswordFile, find_password

PASSWORD_VARIABLE: Final = "ARX_DATABASE_PASSWORD"  # noqa: S105 - its name, not its value
ERRORS: Final = Counter[str]()  # transactions that failed in this process, by the database's name, for its metrics
BUSY_S: Final = 5  # how long a writer waits for another one, or for a connection
STUCK_S: Final = 10  # a mint that hangs in a transaction must not block the others for longer
CACHE_KIB: Final = 32 * 1024  # per SQLite connection: holds the index pages that a large log touches again and again
WAL_PAGES: Final = 4096  # 16 MiB between checkpoints of SQLite's write-ahead log: a hot page is then copied once
POOL: Final = 16  # connections kept, and half as many more under load; two mints fit into PostgreSQL's usual 100
URGENT_POOL: Final = 2  # connections kept for what must not wait for other calls, and three times as many more
READY: Final = 8  # of these, how many each of the two `Connections` of an engine keeps checked out
READING: Final = "arx_reading"  # execution option: a transaction of SQLite that takes no write lock
NEWER: Final = "update ARx, or restore the backup that was made before it was updated"
OLDER: Final = "continue with that version, or begin a new realm with this one: docs/operations.md, Upgrade"


# SQLSTATE, and what is wrong with the database; others are named by their class.
_FAULTS: Final = {
    "25006": "is read-only: its server is a standby now, or was made read-only; name the primary in its URL",
    "53100": "has no room: its disk is full",
    "53300": "has no connection left: raise `max_connections`, or end what uses them",
}


def open_engine(
    url: str,
    *,
    answer_s: float | None = None,
    commits: CommitWatch | None = None,
    urgent: bool = False,
) -> Engine:
    """Open a database.

    Args:
        url: In SQLAlchemy's form, such as ``sqlite:////srv/acme/mint.db`` or ``postgresql://arx@db.example/arx``.
            ``ARX_DATABASE_PASSWORD`` may hold its password, or ``ARX_DATABASE_PASSWORD_FILE`` name a file of it, which
            is read at each connection.
        answer_s: The longest wait for PostgreSQL's answer to a statement, s; None for no bound.
        commits: Bounds the wait for PostgreSQL's answer to a commit, and notes those without one; None for no bound.
        urgent: Whether the engine is for what must not wait for other calls: with a small pool of its own.

    Returns:
        The engine; no connection is made yet.

    Raises:
        SettingsError: ``url`` names no database that this installation can open.
    """
    try:
        parts = make_url(url)
        if parts.drivername == "sqlite":
            settings: dict[str, Any] = {"connect_args": {"timeout": BUSY_S, "check_same_thread": False}}
            if parts.database and parts.database != ":memory:":
                settings["pool_use_lifo"] = True  # the connection that was used last still has its pages in memory
            engine = create_engine(parts, **settings)
            event.listen(engine, "connect", _on_sqlite_connect)
            event.listen(engine, "begin", _on_sqlite_begin)
            return engine
        if parts.drivername in ("postgresql", "postgresql+psycopg"):
            return _open_postgresql(parts, answer_s, commits, urgent=urgent)
    except ImportError:
        raise SettingsError(f"PostgreSQL needs its driver: type `{install_line('postgres')}`") from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    # The error omits the URL, which could hold a password.
    raise SettingsError("the mint's database is a URL: sqlite:///PATH or postgresql://USER@HOST/NAME")


class Connections:
    """Connections of an engine that stay checked out between transactions, the last used first.

    Args:
        engine: The engine.
        options: Execution options of the connections.
    """

    # A checkout from SQLAlchemy's pool and its end take as long as five small statements of SQLite. The pool still
    # opens and bounds the connections, and resets them after errors.
    def __init__(self, engine: Engine, **options: Any) -> None:
        self._engine, self._ready = engine.execution_options(**options), list[Connection]()
        event.listen(engine, "engine_disposed", self._forget)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """Run a transaction: commit it at the end, or roll it back on an error.

        Raises:
            SQLAlchemyError: The database refused, or did not answer.
        """
        with self._lend() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def look(self) -> Iterator[Connection]:
        """Lend a connection for one compiled SELECT, which needs no transaction: a statement sees one moment.

        Raises:
            SQLAlchemyError: The database refused, or did not answer.
            StoreError: SQLite's file was moved or removed.
        """
        with self._lend() as connection:
            _require_in_place(connection.info.get("file"))
            yield connection

    @contextlib.contextmanager
    def _lend(self) -> Iterator[Connection]:
        connection = self._take()
        try:
            yield connection
        except BaseException:
            connection.close()  # the pool resets it, or drops it if it is broken
            raise
        if len(self._ready) < READY:
            self._ready.append(connection)
        else:
            connection.close()

    def _take(self) -> Connection:
        with contextlib.suppress(IndexError):  # another thread may take the last one
            while True:
                connection = self._ready.pop()
                if not _is_ended(connection.connection.dbapi_connection):
                    return connection
                connection.invalidate()
                connection.close()
        return self._engine.connect()

    def _forget(self, _: Engine) -> None:
        with contextlib.suppress(IndexError):
            while True:
                connection = self._ready.pop()
                connection.detach()  # its pool was closed before, and would keep it open
                connection.close()


def place_of(engine: Engine) -> str:
    """Return a database's URL for people, without a password.

    Args:
        engine: The database's engine.
    """
    url = engine.url
    hidden = [name for name in url.query if "password" in name]
    return url.difference_update_query(hidden).render_as_string(hide_password=True)


@contextlib.contextmanager
def database_errors(name: str) -> Iterator[None]:
    """Map a database's failures in this context to ARx errors.

    Args:
        name: Name of the database for errors, such as "the mint's database".

    Raises:
        GrantError: ``conflict``: another transaction changed the same rows.
        RequestError: The database cannot store a text that it was given.
        StoreError: The database did not answer.
    """
    ERRORS.setdefault(name, 0)  # to Prometheus the rise from no series to 1 is none
    try:
        yield
    except IntegrityError:
        raise GrantError("a concurrent request changed this; read it again and retry", code="conflict") from None
    except DataError:  # PostgreSQL keeps no zero character in a text
        raise RequestError("a text holds a character that the database cannot store; remove it") from None
    except SQLAlchemyError as error:
        ERRORS[name] += 1
        raise StoreError(f"{name} {fault_of(error)}") from None


def fault_of(error: SQLAlchemyError) -> str:
    """Return what a database does wrong, as what follows its name; never statement or values, as its own text has."""
    original = getattr(error, "orig", None)
    if isinstance(original, TimeoutError):
        return f"did not answer ({original})"
    if isinstance(original, OSError):  # of `_read_password`
        return f"was not asked, for want of a password: {original}"
    text, state = str(original).lower(), getattr(original, "sqlstate", None)
    # A connection is refused without a SQLSTATE, and SQLite has none.
    state = "25006" if "session is read-only" in text or "readonly database" in text else state
    if "password authentication failed" in text or "no password supplied" in text:
        return f"refused the user or password: set {PASSWORD_VARIABLE}, {PASSWORD_VARIABLE}{FILE_SUFFIX} or its URL"
    if "certificate" in text:
        return "did not answer (its server's certificate was refused: see `sslrootcert` in its URL)"
    return _FAULTS.get(state or "", f"did not answer ({type(error).__name__})")


def run_text(connection: Connection, text: str, values: Any = ()) -> tuple[list[tuple[Any, ...]], int]:
    """Run a statement's text at the driver's cursor, in the transaction of a connection.

    SQLAlchemy's own execution takes ten times as long as a small statement of SQLite.  Listeners are called, and errors
    raised, as SQLAlchemy does.

    Args:
        connection: The connection.
        text: The text, as the driver takes it.
        values: The parameters, as the driver takes them.

    Returns:
        The rows, and the number of rows that the statement changed.

    Raises:
        SQLAlchemyError: The database refused, or did not answer.
    """
    driver, dialect = connection.connection, connection.dialect
    cursor = driver.cursor()
    for listener in connection.engine.dispatch.before_cursor_execute:
        listener(connection, cursor, text, values, None, False)
    errors: Any = dialect.loaded_dbapi.Error
    try:
        cursor.execute(text, values)
        rows: Any = cursor.fetchall() if cursor.description is not None else []  # SQLite may fail at a later row
    except errors as error:
        raise _map_error(connection, cursor, text, error) from error
    return rows, cursor.rowcount


@contextlib.contextmanager
def driver_errors(connection: Connection, cursor: Any, text: str) -> Iterator[None]:
    """Raise the errors of a driver's cursor in this context as SQLAlchemy does.

    Args:
        connection: The connection.
        cursor: Its driver's cursor.
        text: The statement.

    Raises:
        SQLAlchemyError: The database refused, or did not answer.
    """
    errors: Any = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except errors as error:
        raise _map_error(connection, cursor, text, error) from error


def _map_error(connection: Connection, cursor: Any, text: str, error: Exception) -> Exception:
    """Return SQLAlchemy's error for one of a driver, and give up a connection that is lost."""
    dialect, errors = connection.dialect, connection.dialect.loaded_dbapi.Error
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)  # type: ignore[arg-type]
    raised = DBAPIError.instance(text, None, error, errors, connection_invalidated=lost, dialect=dialect)
    if lost:
        connection.invalidate(error)
    return raised


def _open_postgresql(url: URL, answer_s: float | None, commits: CommitWatch | None, *, urgent: bool) -> Engine:
    from arx_caps.database.bounded_waits import BoundedConnection

    password = None if url.password else find_password(PASSWORD_VARIABLE)
    if isinstance(password, str):
        url = url.set(password=password)
    settings: dict[str, Any] = {"connect_timeout": BUSY_S if answer_s is None else max(2, round(answer_s))}
    if "options" not in url.query:
        settings["options"] = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={STUCK_S}s"
    # A host that is gone sends nothing: without these its connections would be waited at for a quarter of an hour.
    kept = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": STUCK_S * 1000}
    settings |= {name: value for name, value in kept.items() if name not in url.query}
    size, more = (URGENT_POOL, 3 * URGENT_POOL) if urgent else (POOL, POOL // 2)
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=settings,
        pool_size=size,
        max_overflow=more,
        pool_timeout=BUSY_S,
    )

    def connect(_: Any, __: Any, arguments: Any, named: Any) -> Any:
        if isinstance(password, PasswordFile):
            named = named | {"password": _read_password(password)}
        connection = BoundedConnection.connect(*arguments, **named)
        connection.bound(answer_s, commits)
        return connection

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", _on_postgresql_checkout)
    return engine


def _read_password(file: PasswordFile) -> str:
    try:
        return file.read()
    except SettingsError as error:  # the callers of an engine know the errors of a database alone
        raise OperationalError("connect", None, OSError(str(error))) from error


def _on_postgresql_checkout(connection: Any, *_: object) -> None:
    """Replace a connection that its server has closed."""
    if _is_ended(connection):
        raise DisconnectionError("the server closed the connection")


def _is_ended(connection: Any) -> bool:
    """Return whether the server has closed a driver's connection; SQLite has no server."""
    # SQLAlchemy's own check asks the server, which costs a round trip a transaction. A server that ends a connection
    # sends a message first, and between two transactions no other message has to be read.
    if not hasattr(connection, "pgconn"):
        return False
    if connection.closed:
        return True
    said = select.poll()
    said.register(connection.pgconn.socket, select.POLLIN)
    return bool(said.poll(0))


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    # The driver would begin transactions by its own rules, and late: `_on_sqlite_begin` sends BEGIN.
    connection.isolation_level = None
    cursor = connection.cursor()
    _keep_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # a committed transaction survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    path = cursor.execute("PRAGMA database_list").fetchone()[2]
    cursor.close()
    record.info["file"] = (Path(path), Path(path).stat()) if path else None


def _keep_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Turn SQLite's write-ahead log on, and wait for others that write to a new database or do the same."""
    # SQLite's own wait does not cover this pragma: it reads first, and does not wait for the lock to write after that.
    until = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _on_sqlite_begin(connection: Connection) -> None:
    _require_in_place(connection.info.get("file"))
    # IMMEDIATE: a transaction that reads first and writes later could otherwise fail in its middle.
    reading = connection.get_execution_options().get(READING)
    run_text(connection, "BEGIN" if reading else "BEGIN IMMEDIATE")


def _require_in_place(file: tuple[Path, os.stat_result] | None) -> None:
    """Raise ``StoreError`` if the database's file was moved or removed after it was opened."""
    # Writes to a file that has no name any more are lost with the process.
    if file is None:
        return
    path, opened = file
    with contextlib.suppress(OSError):
        if os.path.samestat(path.stat(), opened):
            return
    raise StoreError(f"the database {path} was moved away or removed; put it back, or restart the mint")


def other_version(what: str, found: str, known: str) -> SettingsError:
    """Return the error for a schema that this version cannot read, with what to do.

    Args:
        what: The beginning of the message, up to the schema's number.
        found: The schema's number; a digest of its tables may follow after ``_``.
        known: The newest schema that this version knows.
    """
    number = found.partition("_")[0]
    # A newer mint may have written rows that this one would misread, and so may one between two releases.
    newer = number.isascii() and number.isdigit() and int(number) > int(known.partition("_")[0])
    made, hint = ("a newer version", NEWER) if newer else ("an older version that this one cannot read", OLDER)
    return SettingsError(f"{what} {found}, this version needs {known}: it was made by {made}", hint=hint)
