# SPDX-License-Identifier: Apache-2.0
"""The mint's database: how it is opened, read and changed, and how its failures are named.

SQLite in the realm's folder, or PostgreSQL when several mints share a realm; only the outbox's order differs outside
this file.  A change is one transaction, and its event is written in it: both are stored, or neither.  On PostgreSQL two
transactions run at once.  A transaction that reads one row to decide about another locks it first (``with_for_update``,
which SQLite ignores because there a writer is alone).
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Self, TypeAlias

from sqlalchemy import Executable, Row, Select, func, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from arx_caps.engines import BUSY_S, READING, open_engine, place_of, told
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import OUTBOX
from arx_verifier.errors import AuditError, StoreError

PAGE: Final = 1000  # rows of one listing
NAME: Final = "the mint's database"
Rows: TypeAlias = list[dict[str, Any]]
_RECORD: Final = insert(OUTBOX)


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
        self._writing = threading.Lock() if self.system == "sqlite" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self.place}>"

    @property
    def place(self) -> str:
        """Where it is, as it may be shown: without a password."""
        return place_of(self._engine)

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
        with told(NAME), self._turn(), self._engine.begin() as connection:
            yield connection
            if what is not None:
                self.record_in(connection, what)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for this process's other writers, where only one can write at a time.

        SQLite itself has a waiter look again after longer and longer pauses: of many, some would wait for seconds.
        """
        if self._writing is None:
            yield
            return
        if not self._writing.acquire(timeout=BUSY_S):
            raise StoreError(f"{NAME} did not answer: others write for too long")
        try:
            yield
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Look at something in one transaction that waits for no writer.

        Raises:
            StoreError: The database did not answer.
        """
        with told(NAME), self._reader.begin() as connection:
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
        with told(NAME), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
            yield

    @contextlib.contextmanager
    def altering(self) -> Iterator[Connection]:
        """Change the form of tables in one transaction.

        Raises:
            StoreError: The database did not answer.
        """
        with told(NAME), self._engine.connect() as connection:
            if self.system == "sqlite":
                # There a table is altered by making another one: dropping the old one must not look like an end of all
                # that rows elsewhere refer to.  It cannot be said within a transaction.
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
                connection.detach()  # nobody else gets a connection that does not look at references
            with connection.begin():
                yield connection
                if self.system == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise StoreError("the mint's database refers to rows that are not there; restore a backup")

    def settle(self) -> None:
        """Have SQLite carry everything over into its file, and empty its write-ahead log."""
        if self.system == "sqlite":
            with told(NAME), self._engine.connect() as c:
                c.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def record_in(self, connection: Connection, what: Event) -> None:
        """Write an event in a transaction that is open.

        Raises:
            AuditError: It cannot be recorded; the transaction is not to be committed.
        """
        row = {"at_ms": now_ms(), "mint": self.writer, "kind": what.kind, "by": what.by, "body": what.body()}
        try:
            connection.execute(_RECORD, row)
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

    def rows(self, statement: Executable, /, **values: Any) -> Rows:
        """Return the rows of a query.

        Args:
            statement: The query, made once for all its calls.
            values: Its parameters.
        """
        with self.read() as c:
            return [plain(row) for row in c.execute(statement, values)]

    def row(self, statement: Executable, /, **values: Any) -> dict[str, Any] | None:
        """Return the first row of a query, or None."""
        with self.read() as c:
            found = c.execute(statement, values).first()
        return None if found is None else plain(found)

    def page(self, statement: Select[Any], limit: int) -> Rows:
        """Return the rows of a listing, at most so many."""
        return self.rows(statement.limit(limit))

    def count(self, table: Any) -> int:
        """Count a table's rows."""
        with self.read() as c:
            return int(c.execute(select(func.count()).select_from(table)).scalar_one())


def plain(row: Row[Any]) -> dict[str, Any]:
    """Return a row as what is passed on."""
    return dict(row._mapping)  # noqa: SLF001 - its public name
