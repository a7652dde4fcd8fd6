# SPDX-License-Identifier: Apache-2.0
"""Rows of tables as structs: which columns a struct reads, and how values of the database become its fields."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec
from sqlalchemy import Executable, Select, Table, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoResultFound

from arx_caps.mint.db.statement import NOTHING, CompiledStatement, Values

R = TypeVar("R", bound=msgspec.Struct)


class RowReader(Generic[R]):
    """Reads and writes rows of a table as structs, whose fields have the names of columns.

    A ``dict``, ``list`` or ``tuple`` is JSON in its column, and a ``bool`` a number.

    Attributes:
        columns: The columns, in the order of the struct's fields.

    Args:
        kind: The struct.
        table: The table; a field that is none of its columns fails at once.
    """

    def __init__(self, kind: type[R], table: Table) -> None:
        self._kind, self._names = kind, kind.__struct_fields__
        self.columns = tuple(table.c[name] for name in self._names)
        self._read: list[tuple[int, Any]] = []
        self._written: dict[str, Any] = {}
        for index, field in enumerate(msgspec.structs.fields(kind)):
            if field.type is bool:
                self._read.append((index, bool))
                self._written[field.name] = int
            elif any(get_origin(part) in (dict, list, tuple) for part in (field.type, *get_args(field.type))):
                self._read.append((index, msgspec.json.Decoder(field.type).decode))
                self._written[field.name] = as_json

    def select(self) -> Select[Any]:
        """Return a query of these columns."""
        return select(*self.columns)

    def read(self, values: Sequence[Any]) -> R:
        """Return the struct of a row that a query of these columns found."""
        row = [*values]
        for index, convert in self._read:
            if row[index] is not None:
                row[index] = convert(row[index])
        return self._kind(**dict(zip(self._names, row, strict=True)))

    def all(self, connection: Connection, statement: Executable, values: Values = NOTHING) -> list[R]:
        """Run a query of these columns, which need not be compiled, and return its rows."""
        return [self.read(row) for row in connection.execute(statement, values)]

    def first(self, connection: Connection, statement: CompiledStatement, values: Values = NOTHING) -> R | None:
        """Run a query of these columns, and return its first row or None; see ``CompiledStatement.all``."""
        found = statement.first(connection, values)
        return None if found is None else self.read(found)

    def one(self, connection: Connection, statement: CompiledStatement, values: Values = NOTHING) -> R:
        """Run a query of these columns, and return its first row, which must exist.

        Raises:
            NoResultFound: It has no row.
        """
        found = self.first(connection, statement, values)
        if found is None:
            raise NoResultFound("the row that this transaction needs is not in the database")
        return found

    def values(self, row: R) -> dict[str, Any]:
        """Return a struct's columns as the database takes them."""
        values = {column.name: getattr(row, column.name) for column in self.columns}
        for name, convert in self._written.items():
            if values[name] is not None:
                values[name] = convert(values[name])
        return values


def as_json(value: Any) -> str:
    """Return a value as JSON with sorted keys, for a column."""
    return msgspec.json.encode(value, order="sorted").decode()


def fields_of(row: msgspec.Struct | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the columns of a row by name."""
    return row if isinstance(row, Mapping) else msgspec.structs.asdict(row)
