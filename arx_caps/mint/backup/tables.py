# SPDX-License-Identifier: Apache-2.0
"""Read the tables of mint and log as they are at one moment, and write them into an empty database.  CONTROL 8.1.

SQLite is copied page by page, PostgreSQL row by row.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Table, delete, func, inspect, select
from sqlalchemy.engine import Connection, make_url

from arx_caps.audit.store.log_store import create_tables
from arx_caps.audit.store.tables import CHECKPOINT, SCHEMA, STATE
from arx_caps.audit.store.tables import META as LOG_META
from arx_caps.audit.store.tables import METADATA as LOG_TABLES
from arx_caps.database.engines import driver_errors
from arx_caps.mint.backup.archive import CHUNK
from arx_caps.mint.backup.manifest import Manifest
from arx_caps.mint.db.migrations import HEAD, migrate, revision
from arx_caps.mint.db.tables import FOLLOWED, METADATA, OUTBOX, SERVICES
from arx_verifier.errors import SettingsError

FOLDER: Final = "tables/"  # what the names of parts with rows begin with
PAGES: Final = 4096  # of SQLite that are copied between two looks at the clock, 16 MiB
SCHEMA_OPTION: Final = "-csearch_path={}"
Progress = Callable[[int, int], None]  # receives how many bytes or records are done, of how many; 0 if unknown
# By the name of its part, in an order that keeps references whole.
ROWS: Final = {f"{FOLDER}{table.name}": table for part in (METADATA, LOG_TABLES) for table in part.sorted_tables}


def copy_sqlite(source: Path, copy: Path, progress: Progress) -> None:
    """Copy an SQLite database as it is at one moment, while others write to it.

    Args:
        source: Its file.
        copy: The file to make.
        progress: Called now and then with how many bytes are done, of how many.

    Raises:
        sqlite3.Error: It cannot be read, or the copy cannot be written.
    """
    place = f"file:{quote(str(source))}?mode=rw"
    with closing(sqlite3.connect(place, uri=True, isolation_level=None)) as db, closing(sqlite3.connect(copy)) as to:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        to.execute("PRAGMA synchronous=OFF")  # the archive is synced, and this copy is not kept
        # Without a transaction of its own, the copy begins anew with each change by another process.
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.backup(to, pages=PAGES, progress=lambda _, left, total: progress((total - left) * size, total * size))


def copy_out(connection: Connection, table: Table) -> Iterator[bytes]:
    """Yield the rows of a table of PostgreSQL in the binary form of COPY."""
    rows: list[bytes] = []
    size = 0
    with _copy(connection, f"COPY {_columns(table)} TO STDOUT (FORMAT binary)") as copy:
        for row in copy:
            rows.append(row)
            size += len(row)
            if size >= CHUNK:
                yield b"".join(rows)
                rows, size = [], 0
    yield b"".join(rows)


def copy_in(connection: Connection, table: Table, chunks: Iterable[bytes]) -> None:
    """Write rows that ``copy_out`` read into a table of PostgreSQL."""
    with _copy(connection, f"COPY {_columns(table)} FROM STDIN (FORMAT binary)") as copy:
        for chunk in chunks:
            copy.write(chunk)


@contextlib.contextmanager
def _copy(connection: Connection, statement: str) -> Iterator[Any]:
    """Run a COPY at the driver's cursor, in the transaction of a connection.

    Raises:
        SQLAlchemyError: The database refused, or did not answer.
    """
    cursor: Any = connection.connection.cursor()
    with cursor, driver_errors(connection, cursor, statement), cursor.copy(statement) as copy:
        yield copy


def make_tables(connection: Connection, manifest: Manifest) -> None:
    """Make the tables of mint and log, without a row, in an empty schema of PostgreSQL.

    Raises:
        SettingsError: The backup is of another revision, or the schema has tables.
    """
    if (manifest.revision, manifest.schema) != (HEAD, SCHEMA):
        hint = f"restore it with ARx {manifest.version}, then upgrade"
        raise SettingsError(f"the backup has tables of ARx {manifest.version}, not of this version", hint=hint)
    require_empty(connection)
    migrate(connection)
    create_tables(connection)
    for table in (LOG_META, STATE):
        connection.execute(delete(table))


def require_empty(connection: Connection) -> None:
    """Require that a database has no table.

    Raises:
        SettingsError: It has one.
    """
    found = inspect(connection).get_table_names()
    if found:
        hint = (
            "make an empty one, and name it: a database that is in use is not overwritten; "
            "if a restore that was interrupted left these tables, drop this database"
        )
        raise SettingsError(f"the database is not empty: it has the table {min(found)}", hint=hint)


def set_number(connection: Connection, manifest: Manifest) -> None:
    """Set the number of the last event, so that no number is given twice."""
    if manifest.outbox:
        connection.exec_driver_sql(f"SELECT setval('outbox_id_seq', {manifest.outbox:d})")


def in_schema(url: str, schema: str) -> str:
    """Return the URL of a PostgreSQL database with which its tables are those of a schema.

    Args:
        url: The database.
        schema: The schema.
    """
    parts = make_url(url)
    given = parts.query.get("options", "")
    options = " ".join([*([given] if isinstance(given, str) else given), SCHEMA_OPTION.format(schema)]).strip()
    return parts.update_query_dict({"options": options}).render_as_string(hide_password=False)


def move_tables(connection: Connection, schema: str) -> None:
    """Move all tables of a schema into the one that the connection uses, and drop the schema.

    Raises:
        SettingsError: The connection's schema has tables.
    """
    require_empty(connection)
    own = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    for name in inspect(connection).get_table_names(schema=schema):
        connection.exec_driver_sql(f'ALTER TABLE "{schema}"."{name}" SET SCHEMA "{own}"')
    connection.exec_driver_sql(f'DROP SCHEMA "{schema}"')


def describe(mint: Connection, log: Connection) -> dict[str, Any]:
    """Return what the manifest has of the databases, and as ``checkpointed`` the size of the log's last checkpoint.

    Args:
        mint: A connection to the mint's database.
        log: The same to the log's.

    Raises:
        SettingsError: The database belongs to another version, or has no tables.
    """
    found = revision(mint)
    if found is None:
        raise SettingsError("the mint's database has no tables: start the mint once")
    place = mint.execute(select(FOLLOWED)).first()
    return {
        "revision": found,
        "schema": str(log.execute(select(LOG_META.c.value).where(LOG_META.c.name == "schema")).scalar_one()),
        "records": int(log.execute(select(STATE.c.size)).scalar_one()),
        "incarnation": "" if place is None else str(place.incarnation),
        "seq": 0 if place is None else int(place.seq),
        "checkpointed": int(log.execute(select(func.max(CHECKPOINT.c.size))).scalar() or 0),
        "outbox": _last_number(mint),
        "services": tuple(mint.execute(select(SERVICES.c.audience).order_by(SERVICES.c.audience)).scalars()),
    }


def _last_number(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":  # its own table has the number, and is copied with all others
        return int(connection.execute(select(func.max(OUTBOX.c.id))).scalar() or 0)
    last = connection.exec_driver_sql("SELECT CASE WHEN is_called THEN last_value END FROM outbox_id_seq").scalar()
    return int(last or 0)


def _columns(table: Table) -> str:
    return f'"{table.name}" ({", ".join(f"{chr(34)}{column.name}{chr(34)}" for column in table.columns)})'
