# SPDX-License-Identifier: Apache-2.0
"""Statements that SQLAlchemy compiles once, and that run at the driver's cursor.

For each execution SQLAlchemy makes a context, a result and its rows, which takes ten times as long as SQLite takes to
find a row by its key.  A ``CompiledStatement`` has the text, the parameters and the conversions that SQLAlchemy makes
of the statement, and runs in the transaction of a SQLAlchemy connection.  Errors and events are SQLAlchemy's own.

It is for statements that are the same for each call.  Lists and pages, whose conditions vary, use SQLAlchemy itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Executable, Table, bindparam, insert
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ClauseElement

from arx_caps.database.engines import run_text

Values = Mapping[str, Any]
NOTHING: Final[Values] = {}
_AT_ONCE: Final = 500  # values in one statement


class _Form(NamedTuple):
    """A statement as one database takes it.

    Attributes:
        text: The text for the driver.
        order: Names of its parameters, where the driver takes them by position; None where it takes them by name.
        constants: Values that the statement itself has.
        binds: Conversions of parameters, by name.
        results: Conversions of columns, by index.
    """

    text: str
    order: tuple[str, ...] | None
    constants: dict[str, Any]
    binds: tuple[tuple[str, Callable[[Any], Any]], ...]
    results: tuple[tuple[int, Callable[[Any], Any]], ...]


class CompiledStatement:
    """A statement.  It may be shared by threads, and by databases of both systems.

    Args:
        statement: A statement of SQLAlchemy whose text does not depend on the values of its parameters.  An INSERT or
            UPDATE sets the columns that ``values`` names in a call.
    """

    __slots__ = ("_forms", "_statement")

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._forms: dict[tuple[str, ...], _Form] = {}

    def all(self, connection: Connection, values: Values = NOTHING) -> list[tuple[Any, ...]]:
        """Run the statement in a connection's transaction and return its rows.

        Args:
            connection: The connection.
            values: The parameters.

        Raises:
            SQLAlchemyError: The database refused, or did not answer.
        """
        form = self._form(connection, values)
        rows, _ = _send(form, connection, values)
        if form.results:
            rows = [_converted(row, form) for row in rows]
        return rows

    def first(self, connection: Connection, values: Values = NOTHING) -> tuple[Any, ...] | None:
        """Run the statement and return its first row, or None; see ``all``."""
        rows = self.all(connection, values)
        return rows[0] if rows else None

    def scalar(self, connection: Connection, values: Values = NOTHING) -> Any:
        """Run the statement and return the first column of its first row, or None; see ``all``."""
        rows = self.all(connection, values)
        return rows[0][0] if rows else None

    def run(self, connection: Connection, values: Values = NOTHING) -> int:
        """Run a change and return how many rows it changed; see ``all``."""
        return _send(self._form(connection, values), connection, values)[1]

    def _form(self, connection: Connection, values: Values) -> _Form:
        key = (connection.dialect.name, *values)
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = _compile(self._statement, connection.dialect, [*values])
        return form


def insert_new(connection: Connection, statement: CompiledStatement, row: Values) -> bool:
    """Insert a row, and return whether it is new: False where another row has its key already.

    Args:
        connection: The connection.
        statement: The INSERT.
        row: The row, by columns.

    Raises:
        SQLAlchemyError: The database refused for another reason, or did not answer.
    """
    try:
        # A savepoint: PostgreSQL refuses every later query of a transaction in which a statement failed.
        with connection.begin_nested():
            statement.run(connection, row)
    except IntegrityError:
        return False
    return True


def insert_rows(connection: Connection, rows: Sequence[tuple[Table, Values]]) -> None:
    """Insert rows, each into its table, in a connection's transaction.

    Args:
        connection: The connection.
        rows: Tables with values by columns; a row may refer to rows before it.

    Raises:
        SQLAlchemyError: The database refused, or did not answer.
    """
    # One statement where each is a round trip. SQLite takes no changes in a CTE, and has no round trips.
    together = [rows] if connection.dialect.name == "postgresql" else [[row] for row in rows]
    for some in together:
        key = tuple((table.name, *values) for table, values in some)
        statement = _INSERTS.get(key)
        if statement is None:
            statement = _INSERTS[key] = CompiledStatement(_insert_of(some))
        given = {f"{name}_{at}": value for at, (_, row) in enumerate(some) for name, value in row.items()}
        statement.run(connection, given)


_INSERTS: Final[dict[tuple[tuple[str, ...], ...], CompiledStatement]] = {}


def parts_of(values: Collection[Any]) -> Iterator[list[Any]]:
    """Yield values in lists that one statement can take: databases limit its parameters."""
    listed = list(values)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]


def _insert_of(rows: Sequence[tuple[Table, Values]]) -> Executable:
    made = [
        insert(table).values({name: bindparam(f"{name}_{at}", type_=table.c[name].type) for name in values})
        for at, (table, values) in enumerate(rows)
    ]
    return made[-1].add_cte(*(one.cte(f"made_{at}") for at, one in enumerate(made[:-1])))


def _send(form: _Form, connection: Connection, values: Values) -> tuple[list[tuple[Any, ...]], int]:
    given: Any = {**form.constants, **values}
    for name, convert in form.binds:
        given[name] = convert(given[name])
    if form.order is not None:
        given = [given[name] for name in form.order]
    return run_text(connection, form.text, given)


def _compile(statement: Executable, dialect: Dialect, names: list[str]) -> _Form:
    assert isinstance(statement, ClauseElement)
    compiled: Any = statement.compile(dialect=dialect, column_keys=names)
    assert not compiled.post_compile_params, "the text of this statement depends on its values"
    constants, binds = {}, []
    for name, bind in compiled.binds.items():
        if not bind.required:
            constants[name] = bind.effective_value
        else:
            assert name in names, f"a parameter is missing: {name}"
        convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
        if convert is not None:
            binds.append((name, convert))
    columns = list(getattr(statement, "selected_columns", ()))
    kinds = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
    return _Form(
        text=compiled.string,
        order=tuple(compiled.positiontup) if compiled.positional else None,
        constants=constants,
        binds=tuple(binds),
        results=tuple((index, convert) for index, convert in enumerate(kinds) if convert is not None),
    )


def _converted(row: tuple[Any, ...], form: _Form) -> tuple[Any, ...]:
    whole = list(row)
    for index, convert in form.results:
        whole[index] = convert(whole[index])
    return tuple(whole)
