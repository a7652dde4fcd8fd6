# SPDX-License-Identifier: Apache-2.0
"""In which order rows are listed, and where in it a list goes on.  CONTROL 4.3.

A place is the values of the columns that rows are ordered by: what came or went meanwhile moves nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from sqlalchemy import Select, tuple_

from arx_verifier.errors import MalformedTokenError, RequestError
from arx_verifier.token import wire

Text = Annotated[str, Meta(pattern=r"^[!-~]{1,96}\Z")]  # what ids and paths are written in
Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Order(NamedTuple):
    """In which order rows are listed; together its columns are unique.

    Attributes:
        columns: The columns.
        types: What their values are.
        newest_first: Whether the order falls.
    """

    columns: tuple[Any, ...]
    types: Any
    newest_first: bool = False


def behind(statement: Select[Any], order: Order, after: str | None) -> Select[Any]:
    """Put a query's rows in order, those behind a place only.

    Args:
        statement: The query.
        order: The order.
        after: A page's ``next``, or None for the first page.

    Raises:
        RequestError: It is no such place.
    """
    columns = order.columns
    if after is not None:
        try:
            place = msgspec.json.decode(wire.bytes_of(after), type=order.types)
        except (MalformedTokenError, msgspec.DecodeError, ValueError) as error:
            raise RequestError("after is what the page before says in next") from error
        here, there = tuple_(*columns), tuple_(*place)
        statement = statement.where(here < there if order.newest_first else here > there)
    return statement.order_by(*(column.desc() if order.newest_first else column.asc() for column in columns))


def place_of(row: Mapping[str, Any], order: Order) -> str:
    """Write down a row's place."""
    return wire.text_of(msgspec.json.encode([row[column.name] for column in order.columns]))
