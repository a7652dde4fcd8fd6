# SPDX-License-Identifier: Apache-2.0
"""Keyset pagination: the order of a listing, and the cursor of its next page. CONTROL 4.3.

How many rows a page has, and what a route answers, is in ``arx_caps.mint.api.pagination``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from sqlalchemy import Select, tuple_

from arx_caps.mint.db.rows import fields_of
from arx_verifier.errors import MalformedTokenError, RequestError
from arx_verifier.token import wire

Text = Annotated[str, Meta(pattern=r"^[!-~]{1,96}\Z")]  # the characters of ids and paths
Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Order(NamedTuple):
    """The order of a listing. Its columns together are unique.

    Attributes:
        columns: The columns, the most significant first.
        types: The tuple type of their values, to validate a cursor with.
        newest_first: Whether the order is descending.
    """

    columns: tuple[Any, ...]
    types: Any
    newest_first: bool = False


def behind(statement: Select[Any], order: Order, after: str | None) -> Select[Any]:
    """Return a query with its rows in order, and only those after a cursor.

    Args:
        statement: The query.
        order: The order.
        after: A page's ``next``, or None for the first page.

    Raises:
        RequestError: The cursor is not one of this order.
    """
    columns = order.columns
    if after is not None:
        try:
            # A cursor is the values of the last row, not an offset: rows that are added or removed between two requests
            # shift no page. It comes from a caller, so its types are checked before they reach a query.
            place = msgspec.json.decode(wire.bytes_of(after), type=order.types)
        except (MalformedTokenError, msgspec.DecodeError, ValueError) as error:
            raise RequestError("invalid after: expected the value of next in the page before") from error
        here, there = tuple_(*columns), tuple_(*place)
        statement = statement.where(here < there if order.newest_first else here > there)
    return statement.order_by(*(column.desc() if order.newest_first else column.asc() for column in columns))


def place_of(row: msgspec.Struct | Mapping[str, Any], order: Order) -> str:
    """Return the cursor of a row, as base64url text."""
    fields = fields_of(row)
    return wire.text_of(msgspec.json.encode([fields[column.name] for column in order.columns]))
