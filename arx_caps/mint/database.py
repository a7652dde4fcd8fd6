# SPDX-License-Identifier: Apache-2.0
"""The mint's database as such: how it is opened, read, changed, and what its failures are called.

SQLite in the realm's folder, or PostgreSQL when several mints share a realm; nothing outside this file knows which,
but for the outbox's order.  A change is one transaction, and its event is written in it: both are there, or neither.
On PostgreSQL two transactions run at once, so whoever looks at a row to decide about another one locks it first
(``with_for_update``, which SQLite passes over because there a writer is alone).
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Row, create_engine, event, insert
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from arx_caps.mint.events import Event
from arx_caps.mint.tables import OUTBOX
from arx_verifier.errors import AuditError, GrantError, SettingsError, StoreError

PASSWORD_VARIABLE: Final = "ARX_DATABASE_PASSWORD"  # noqa: S105 - its name, not its value
BUSY_S: Final = 5  # how long a writer waits for another one, or for a connection
STUCK_S: Final = 10  # a mint that stands still in a transaction must not stop the others for longer
POOL: Final = 16  # connections that are kept, and as many more for a while; two mints fit into PostgreSQL's usual 100
PAGE: Final = 1000  # rows of one listing
READING: Final = "arx_reading"  # execution option: a transaction that takes no write lock


def now_ms() -> int:
    """Read the wall clock, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


class Database:
    """One database.  Methods block: call them from a thread.  Used as a context manager, it closes itself.

    Args:
        url: The database, in SQLAlchemy's form.
        writer: Names this process in what it records.

    Raises:
        SettingsError: The URL names no database that this installation can open.
    """

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        self.writer = writer
        self._engine = open_engine(url)
        self._reader = self._engine.execution_options(**{READING: True})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self.place}>"

    @property
    def place(self) -> str:
        """Where it is, as it may be shown: without a password."""
        url = self._engine.url
        hidden = [name for name in url.query if "password" in name]
        return url.difference_update_query(hidden).render_as_string(hide_password=True)

    @property
    def system(self) -> str:
        """Which one it is: ``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def write(self, what: Event | None = None) -> Iterator[Connection]:
        """Change something in one transaction, with its event; on an error nothing was changed.

        Args:
            what: The event; None where it is written by hand (``record``), or nothing happened that counts as one.

        Raises:
            GrantError: ``conflict``: somebody else changed the same thing.
            StoreError: The database did not answer.
            AuditError: The event cannot be recorded, so the change was not made.
        """
        with _told(), self._engine.begin() as connection:
            yield connection
            if what is not None:
                self.record_in(connection, what)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Look at something in one transaction that waits for no writer.

        Raises:
            StoreError: The database did not answer.
        """
        with _told(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self, number: int) -> Iterator[None]:
        """Be the only mint that does something; the others wait.  A SQLite has one mint anyway.

        Args:
            number: Which thing, the same at every mint.

        Raises:
            StoreError: The database did not answer, or somebody else is at it for too long.
        """
        if self.system == "sqlite":
            yield
            return
        with _told(), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
            yield

    @contextlib.contextmanager
    def altering(self) -> Iterator[Connection]:
        """Change the form of tables in one transaction.

        Raises:
            StoreError: The database did not answer.
        """
        with _told(), self._engine.connect() as connection:
            if self.system == "sqlite":
                # There a table is altered by making another one: dropping the old one must not look like an end of all
                # that rows elsewhere refer to.  It cannot be said within a transaction.
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
                connection.detach()  # nobody else gets a connection that does not look at references
            with connection.begin():
                yield connection
                if self.system == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise StoreError("the mint's database refers to rows that are not there; restore a backup")

    def record_in(self, connection: Connection, what: Event) -> None:
        """Write an event in a transaction that is open.

        Raises:
            AuditError: It cannot be recorded; the transaction is not to be committed.
        """
        row = {"at_ms": now_ms(), "mint": self.writer, "kind": what.kind, "by": what.by, "body": what.body()}
        try:
            connection.execute(insert(OUTBOX).values(**row))
        except SQLAlchemyError as error:
            raise AuditError(f"the mint's record cannot be written ({type(error).__name__})") from None

    def record(self, what: Event) -> None:
        """Record an event that has no change of its own.

        Raises:
            StoreError: The database did not answer.
            AuditError: It cannot be recorded.
        """
        with self.write(what):
            pass

    def rows(self, statement: Any, limit: int = PAGE) -> list[dict[str, Any]]:
        """Return the rows of a query, at most so many."""
        with self.read() as c:
            return [plain(row) for row in c.execute(statement.limit(limit))]

    def row(self, statement: Any) -> dict[str, Any] | None:
        """Return the first row of a query, or None."""
        found = self.rows(statement, 1)
        return found[0] if found else None


def plain(row: Row[Any]) -> dict[str, Any]:
    """Return a row as what is passed on."""
    return dict(row._mapping)  # noqa: SLF001 - its public name


def open_engine(url: str) -> Engine:
    """Open a database.

    Args:
        url: SQLAlchemy's form, such as ``sqlite:////srv/acme/mint.db`` or ``postgresql://arx@db.example/arx``; its
            password may be in ``ARX_DATABASE_PASSWORD``.

    Raises:
        SettingsError: It names no database that this installation can open.
    """
    try:
        parts = make_url(url)
        if parts.drivername == "sqlite":
            engine = create_engine(parts, connect_args={"timeout": BUSY_S, "check_same_thread": False})
            event.listen(engine, "connect", _on_sqlite_connect)
            event.listen(engine, "begin", _on_sqlite_begin)
            return engine
        if parts.drivername in ("postgresql", "postgresql+psycopg"):
            return _open_postgresql(parts)
    except ImportError:
        raise SettingsError("PostgreSQL needs its driver: install arx-caps[postgres]") from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    # Said without the URL, which could hold a password.
    raise SettingsError("the mint's database is a URL: sqlite:///PATH or postgresql://USER@HOST/NAME")


def _open_postgresql(url: URL) -> Engine:
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and not url.password:
        url = url.set(password=password)
    settings: dict[str, Any] = {"connect_timeout": BUSY_S}
    if "options" not in url.query:
        settings["options"] = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={STUCK_S}s"
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=settings,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=POOL,
        pool_timeout=BUSY_S,
    )


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    # The driver would begin transactions by its own rules, and late: BEGIN is said below.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was answered survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    path = cursor.execute("PRAGMA database_list").fetchone()[2]
    cursor.close()
    record.info["file"] = (path, Path(path).stat()) if path else None


def _on_sqlite_begin(connection: Connection) -> None:
    _require_in_place(connection.info.get("file"))
    # IMMEDIATE: a transaction that reads first and writes later could otherwise fail in its middle.
    reading = connection.get_execution_options().get(READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _require_in_place(file: tuple[str, os.stat_result] | None) -> None:
    """Refuse a file that was moved away or removed: what is written there would be gone with the process."""
    if file is None:
        return
    path, opened = file
    with contextlib.suppress(OSError):
        if os.path.samestat(Path(path).stat(), opened):
            return
    raise StoreError(f"the mint's database {path} was moved away or removed; put it back, or restart the mint")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise GrantError("somebody else changed this at the same time; look again", code="conflict") from None
    except SQLAlchemyError as error:
        # Its text would quote statement and values.
        raise StoreError(f"the mint's database did not answer ({type(error).__name__})") from None
