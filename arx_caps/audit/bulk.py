# SPDX-License-Identifier: Apache-2.0
"""Write and find many rows at once, as each database does it fastest: the log takes records by the hundred.

The statements are the same ones that SQLAlchemy would make; what is saved is its work for each value of each row.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from arx_caps.audit.tables import NODE

_KEYS: Final = 500  # of one look

_ADD_SQLITE: Final = """\
UPDATE log_node SET allow = allow + ?, deny = deny + ?, other = other + ?, first_ms = min(first_ms, ?),
last_ms = max(last_ms, ?) WHERE id = ?"""
_ADD_POSTGRESQL: Final = """\
UPDATE log_node AS n SET allow = n.allow + more.allow, deny = n.deny + more.deny, other = n.other + more.other,
first_ms = least(n.first_ms, more.first_ms), last_ms = greatest(n.last_ms, more.last_ms)
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
AS more (allow, deny, other, first_ms, last_ms, id) WHERE n.id = more.id"""


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
    signs = ", ".join("?" * len(names))
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({signs})", list(rows))  # noqa: S608 - signs


def add_totals(connection: Connection, totals: Sequence[Sequence[int]]) -> None:
    """Add to the totals of nodes.

    Args:
        connection: The transaction.
        totals: Allows, denials, others, the earliest and the latest time, and the node; each node once, at least one.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_ADD_POSTGRESQL, tuple(map(list, zip(*totals, strict=True))))
    else:
        connection.exec_driver_sql(_ADD_SQLITE, list(map(tuple, totals)))


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
        raise DBAPIError(statement, None, error) from error
