# SPDX-License-Identifier: Apache-2.0
"""Open, read and change the mint's database, and map its failures to ARx errors; the bases of its repositories.

SQLite in the realm's folder, or PostgreSQL when several mints share a realm. Queries are in ``repositories``.
"""

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Generic, Self

from sqlalchemy import Column, Executable, Select, bindparam, func, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from arx_caps.database.commit_watch import URGENT_S, CommitWatch, is_urgent
from arx_caps.database.engines import (
    BUSY_S,
    ERRORS,
    READING,
    Connections,
    database_errors,
    fault_of,
    open_engine,
    place_of,
)
from arx_caps.mint.db.cursor import Order, behind
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import queue_notices
from arx_caps.mint.db.rows import R, RowReader
from arx_caps.mint.db.statement import CompiledStatement, parts_of
from arx_caps.mint.db.tables import OUTBOX
from arx_verifier.clock import now_ms
from arx_verifier.errors import AuditError, StoreError

PAGE: Final = 1000  # rows in a listing at most
NAME: Final = "the mint's database"
_RECORD: Final = CompiledStatement(insert(OUTBOX))


# A change is one transaction, and its event is written in it: the audit log has no change without its event. On
# PostgreSQL two transactions run at once. A transaction that reads one row to decide about another must lock the row
# that it reads (`with_for_update`). SQLite ignores that lock, because its writer is alone.
class Database:
    """One database. Methods block: call them from a thread.

    As a context manager, it closes its connections at its end.

    Attributes:
        commits: Whether the database commits.

    Args:
        url: The database, in SQLAlchemy's form.
        writer: The name of this process in the events that it records.

    Raises:
        SettingsError: The URL names no database that this installation can open.
    """

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        self.writer = writer
        self.commits = CommitWatch(NAME)
        self._engine = open_engine(url, commits=self.commits)
        self._urgent_engine = open_engine(url, answer_s=URGENT_S, urgent=True)
        # PostgreSQL gives each statement its own snapshot, in a transaction or not (READ COMMITTED): BEGIN and COMMIT
        # would only be two more round trips. On SQLite the transaction has one snapshot.
        alone = {} if self.system == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        self._writers = Connections(self._engine)
        self._readers = Connections(self._engine, **{READING: True}, **alone)
        self._urgent_readers = Connections(self._urgent_engine, **{READING: True}, **alone)
        self._writing = threading.Lock() if self.system == "sqlite" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self.place}>"

    @property
    def place(self) -> str:
        """The database's address, without its password, so that it may be shown."""
        return place_of(self._engine)

    @property
    def system(self) -> str:
        """The dialect: ``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        self._urgent_engine.dispose()
        self.commits.clear()

    @property
    def _reading(self) -> Connections:
        # Urgent calls have connections of their own: others must not make a kill wait for one.
        return self._urgent_readers if is_urgent() else self._readers

    @contextlib.contextmanager
    def write(self, what: Event | None = None) -> Iterator[Connection]:
        """Run a change in one transaction with its event; on an error, roll both back.

        Args:
            what: The event; None if the change calls ``record_in`` itself, or if the audit log needs no event.

        Raises:
            GrantError: ``conflict``: another transaction changed the same row.
            StoreError: The database did not answer.
            AuditError: The event cannot be recorded, so the change was rolled back.
        """
        self.commits.require()
        with database_errors(NAME), self._turn(), self._writers.begin() as connection:
            yield connection
            # Last, so that the transaction holds the outbox's lock for as short as possible.
            if what is not None:
                self.record_in(connection, what)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the other writers of this process, if the database allows one writer only."""
        if self._writing is None:
            yield
            return
        # SQLite polls its lock with ever longer pauses, so that one of many waiters would starve for seconds. A lock of
        # this process is handed over at once.
        patience_s = URGENT_S if is_urgent() else BUSY_S
        if not self._writing.acquire(timeout=patience_s):
            raise StoreError(f"{NAME} did not answer: other writers held it for {patience_s:g} s; retry later")
        try:
            yield
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Run queries that wait for no writer; on SQLite they see one moment, on PostgreSQL each sees its own.

        Raises:
            StoreError: The database did not answer.
        """
        with database_errors(NAME), self._reading.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def look(self) -> Iterator[Connection]:
        """Run one compiled query, without a transaction.

        Raises:
            StoreError: The database did not answer.
        """
        with database_errors(NAME), self._reading.look() as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self, number: int) -> Iterator[None]:
        """Hold a lock that one mint of the realm can have; other mints wait for it.

        Args:
            number: Identifies the lock, alike at every mint.

        Raises:
            StoreError: The database did not answer, or another mint kept the lock too long.
        """
        if self.system == "sqlite":
            yield
            return
        with database_errors(NAME), self._engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
            yield

    @contextlib.contextmanager
    def altering(self) -> Iterator[Connection]:
        """Change the schema in one transaction.

        Raises:
            StoreError: The database did not answer, or rows would refer to missing rows.
        """
        with database_errors(NAME), self._engine.connect() as connection:
            if self.system == "sqlite":
                # SQLite alters a table by making a copy and dropping the original. With foreign keys on, that drop
                # would fail or cascade. SQLite ignores this pragma inside a transaction, so it comes before one.
                connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
                connection.detach()  # the pool must not reuse a connection without foreign keys
            with connection.begin():
                yield connection
                if self.system == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise StoreError("the mint's database has references to missing rows: restore a backup")

    def require_whole(self) -> None:
        """Require that SQLite's file is not damaged; PostgreSQL checks its own.

        Raises:
            StoreError: It is damaged, or the database did not answer.
        """
        if self.system == "sqlite":
            with self.read() as c:
                found = c.exec_driver_sql("PRAGMA integrity_check").scalar()
            if found != "ok":
                raise StoreError(f"{NAME} is damaged: {found}")

    def settle(self) -> None:
        """Checkpoint SQLite's write-ahead log into its file, and truncate the log."""
        if self.system == "sqlite":
            with database_errors(NAME), self._engine.connect() as c:
                c.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def record_in(self, connection: Connection, what: Event) -> None:
        """Write an event in an open transaction, with the notifications of it.

        Raises:
            AuditError: The event cannot be recorded. The caller must not commit the transaction.
        """
        at_ms = now_ms()
        row = {"at_ms": at_ms, "mint": self.writer, "kind": what.kind, "by": what.by, "body": what.body()}
        try:
            _RECORD.run(connection, row)
            queue_notices(connection, what.kind, what.by, at_ms, what.facts)
        except SQLAlchemyError as error:
            ERRORS[NAME] += 1
            # The cause stays out: its text has the event's parameters, and an error reaches callers.
            raise AuditError(f"the mint's record cannot be written: {NAME} {fault_of(error)}") from None

    def record(self, what: Event) -> None:
        """Record an event that has no change of its own.

        Raises:
            StoreError: The database did not answer.
            AuditError: The event cannot be recorded.
        """
        with self.write(what):
            pass

    def first(self, reader: RowReader[R], statement: CompiledStatement, /, **values: Any) -> R | None:
        """Return the struct of the first row of a query, or None."""
        with self.look() as c:
            return reader.first(c, statement, values)

    def all(self, reader: RowReader[R], statement: Executable, /, **values: Any) -> list[R]:
        """Return the structs of the rows of a query.

        Args:
            reader: Reads the rows.
            statement: The query. Build it once for all calls.
            values: The parameters.
        """
        with self.read() as c:
            return reader.all(c, statement, values)

    def listed(
        self, reader: RowReader[R], statement: Select[Any], order: Order, after: str | None, limit: int
    ) -> list[R]:
        """Return the structs of a page of a listing.

        Args:
            reader: Reads the rows.
            statement: The query of the whole listing.
            order: Its order.
            after: The ``next`` of the page before it; None for the first page.
            limit: At most this number of rows.

        Raises:
            RequestError: ``after`` is none of this order.
        """
        return self.all(reader, behind(statement, order, after).limit(limit))

    def pairs(self, statement: Executable, /, **values: Any) -> dict[str, str]:
        """Return the rows of a query of two columns, the second by the first; see ``all``."""
        with self.read() as c:
            return {str(name): str(value) for name, value in c.execute(statement, values)}

    def exists(self, statement: CompiledStatement, /, **values: Any) -> bool:
        """Return whether a query has a row."""
        with self.look() as c:
            return statement.first(c, values) is not None

    def column(self, statement: Executable, /, **values: Any) -> list[Any]:
        """Return the first column of a query's rows; see ``all``."""
        with self.read() as c:
            return list(c.execute(statement, values).scalars())

    def scalar(self, statement: Executable, /, **values: Any) -> Any:
        """Return the first column of a query's first row, or None; see ``all``."""
        with self.read() as c:
            return c.execute(statement, values).scalar()

    def count(self, table: Any, *conditions: Any) -> int:
        """Return the number of rows in a table, or in a subquery.

        Args:
            table: The table.
            conditions: Only rows for which these are true.
        """
        return int(self.scalar(select(func.count()).select_from(table).where(*conditions)))

    def change(self, statement: Executable, values: Mapping[str, Any], what: Event | None = None) -> int:
        """Run a change that is one statement, with its event, and return how many rows it changed; see ``write``.

        Args:
            statement: The change.
            values: Its parameters.
            what: The event, or None as for ``write``.
        """
        with self.write(what) as c:
            return c.execute(statement, values).rowcount

    def change_once(self, statement: Executable, values: Mapping[str, Any], what: Event) -> bool:
        """Change one row and record the event, or return False where the row's condition is not true any more.

        Args:
            statement: The change, with the condition.
            values: Its parameters.
            what: The event.
        """
        with self.write() as c:
            # The update decides, not a query before it: of two callers at once, both would find the condition true.
            changed = c.execute(statement, values).rowcount == 1
            if changed:
                self.record_in(c, what)
        return changed


class Repository:
    """The queries and changes of one noun.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database


class StructRepository(Repository, Generic[R]):
    """The queries and changes of a noun whose rows are structs and have one key, such as ``AGENTS.c.path``.

    Args:
        database: The database.
    """

    _reader: RowReader[R]
    _key: Column[Any]
    _find: CompiledStatement

    def __init_subclass__(cls, *, reader: RowReader[Any], key: Column[Any]) -> None:
        """Build the query of ``find``.

        Args:
            reader: Reads the rows.
            key: The column that names a row.
        """
        super().__init_subclass__()
        cls._reader, cls._key = reader, key
        cls._find = CompiledStatement(reader.select().where(key == bindparam("which")))

    def find(self, which: str) -> R | None:
        """Return the row that a key names, or None; one that has ended too.

        Args:
            which: The key.
        """
        return self._database.first(self._reader, self._find, which=which)

    def find_all(self, which: Collection[str], *conditions: Any) -> list[R]:
        """Return the rows that keys name, as far as they exist.

        Args:
            which: The keys.
            conditions: Only rows for which these are true.
        """
        query = self._reader.select().where(*conditions)
        return [row for part in parts_of(which) for row in self._all(query.where(self._key.in_(part)))]

    def _all(self, statement: Executable, /, **values: Any) -> list[R]:
        return self._database.all(self._reader, statement, **values)

    def _listed(self, statement: Select[Any], order: Order, after: str | None, limit: int) -> list[R]:
        return self._database.listed(self._reader, statement, order, after, limit)
