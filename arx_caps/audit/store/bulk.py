# SPDX-License-Identifier: Apache-2.0
"""Insert and find many rows at once, as each database does it fastest.

The statements are those that SQLAlchemy would generate, without its work for each value of each row.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Table, Text, any_, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from arx_caps.audit.store.tables import NODE

_KEYS: Final = 500  # keys in one SELECT
_ROWS: Final = 100  # rows in one INSERT of SQLite


def insert_rows(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows into a table.

    Args:
        connection: The transaction.
        table: The table.
        names: The columns, in the order of the values.
        rows: At least one.

    Raises:
        DBAPIError: The database refused.
    """
    if connection.dialect.name == "postgresql":
        _copy(connection, f"COPY {table.name} ({', '.join(names)}) FROM STDIN", rows)
        return
    # Many rows in a statement: between two statements the driver gives the interpreter's lock to another thread.
    whole = len(rows) // _ROWS * _ROWS
    for start in range(0, whole, _ROWS):
        flat = tuple(chain.from_iterable(rows[start : start + _ROWS]))
        connection.exec_driver_sql(_insert(table.name, tuple(names), _ROWS), flat)
    if rest := rows[whole:]:
        connection.exec_driver_sql(_insert(table.name, tuple(names), 1), list(rest))


@lru_cache
def _insert(table: str, names: tuple[str, ...], rows: int) -> str:
    signs = f"({', '.join('?' * len(names))})"
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([signs] * rows)}"  # noqa: S608 - signs


def find_nodes(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, tuple[int, bytes]]:
    """Return the id and the path of the nodes that have these keys, by key.

    Args:
        connection: The transaction.
        keys: Keys of nodes; unknown ones are left out of the answer.
    """
    nodes: dict[bytes, tuple[int, bytes]] = {}
    sign = "%s" if connection.dialect.name == "postgresql" else "?"
    for start in range(0, len(keys), _KEYS):
        batch = tuple(keys[start : start + _KEYS])
        signs = ", ".join([sign] * len(batch))
        rows = connection.exec_driver_sql(f"SELECT key, id, path FROM {NODE.name} WHERE key IN ({signs})", batch)  # noqa: S608 - signs
        nodes |= {bytes(key): (node, bytes(path)) for key, node, path in rows}
    return nodes


def among(connection: Connection, column: Any, ids: str) -> ColumnElement[bool]:
    """Return the condition that a column is one of many numbers.

    Args:
        connection: A connection to the database that will evaluate it.
        column: The column.
        ids: The numbers, separated by commas.
    """
    # The numbers go as one text, because thousands of parameters take milliseconds.
    condition: ColumnElement[bool]
    if connection.dialect.name == "postgresql":
        # As a literal: with a generic plan, PostgreSQL would compare each row with one number after the other.
        condition = column == any_(cast(bindparam(None, f"{{{ids}}}", Text, literal_execute=True), ARRAY(BigInteger)))
    else:
        condition = column.in_(select(func.json_each(f"[{ids}]").table_valued("value").c.value))
    return condition


def read_leaves(connection: Connection, start: int, end: int) -> Sequence[Any]:
    """Return index and leaf of the existing records from ``start`` to before ``end``, in order.

    Args:
        connection: The transaction.
        start: The first index.
        end: The index after the last.
    """
    sign = "%s" if connection.dialect.name == "postgresql" else "?"
    statement = f"SELECT idx, kept FROM log_record WHERE idx >= {sign} AND idx < {sign} ORDER BY idx"  # noqa: S608 - signs
    return connection.exec_driver_sql(statement, (start, end)).all()


def _copy(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    import psycopg

    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(statement, None, error, psycopg.Error) from error
