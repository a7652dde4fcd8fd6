# SPDX-License-Identifier: Apache-2.0
"""Write and find many rows at once, as each database does it fastest: the log takes records by the hundred.

The statements are the same ones that SQLAlchemy would make; what is saved is its work for each value of each row.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Table, Text, any_, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from arx_caps.audit.tables import NODE

_KEYS: Final = 500  # of one look
_ROWS: Final = 100  # of one statement of SQLite


def insert_rows(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows.

    Args:
        connection: The transaction.
        table: Where.
        names: The columns, in the order of the values.
        rows: At least one.
    """
    if connection.dialect.name == "postgresql":
        _copy(connection, f"COPY {table.name} ({', '.join(names)}) FROM STDIN", rows)
        return
    # Of many rows, many a statement: between two statements the driver gives the interpreter's lock to another thread.
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
    """Return id and path of the nodes that have these keys, by key."""
    found: dict[bytes, tuple[int, bytes]] = {}
    sign = "%s" if connection.dialect.name == "postgresql" else "?"
    for start in range(0, len(keys), _KEYS):
        some = tuple(keys[start : start + _KEYS])
        signs = ", ".join([sign] * len(some))
        rows = connection.exec_driver_sql(f"SELECT key, id, path FROM {NODE.name} WHERE key IN ({signs})", some)  # noqa: S608 - signs
        found |= {bytes(key): (node, bytes(path)) for key, node, path in rows}
    return found


def among(connection: Connection, column: Any, ids: str) -> ColumnElement[bool]:
    """Say that a column is one of many numbers: told as one text, as thousands of parameters take milliseconds.

    Args:
        connection: To which database.
        column: The column.
        ids: The numbers, with commas between.
    """
    found: ColumnElement[bool]
    if connection.dialect.name == "postgresql":
        # Written out: a plan for whatever numbers come would hold each row to one number after the other.
        found = column == any_(cast(bindparam(None, f"{{{ids}}}", Text, literal_execute=True), ARRAY(BigInteger)))
    else:
        found = column.in_(select(func.json_each(f"[{ids}]").table_valued("value").c.value))
    return found


def read_leaves(connection: Connection, start: int, end: int) -> Sequence[Any]:
    """Return index and leaf of the records from ``start`` to before ``end`` that are there, in order."""
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
