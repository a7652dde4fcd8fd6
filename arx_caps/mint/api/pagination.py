# SPDX-License-Identifier: Apache-2.0
"""Lists in pages.  CONTROL 4.3.

A page begins after the last row of the page before, however many rows were added meanwhile.  The order and the place
of a row are in ``db.cursor``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Query, RouteAnswer
from arx_caps.mint.db.cursor import Order, place_of
from arx_caps.mint.db.database import PAGE

DEFAULT_LIMIT: Final = 100
# A state that only the kill epoch knows cannot be a condition in SQL: this bounds the rows that one page reads for it.
MAX_ROWS_READ: Final = PAGE + 1

Shown = TypeVar("Shown")
AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any] | msgspec.Struct)


class _HasState(Protocol):
    @property
    def state(self) -> str: ...


InState = TypeVar("InState", bound=_HasState)


class PageQuery(Query, frozen=True):
    """The size of a page, and the place after which it begins."""

    limit: Annotated[int, Meta(ge=1, le=PAGE)] = DEFAULT_LIMIT
    after: Annotated[str, Meta(max_length=200)] | None = None  # longer than any place that a page returns


class Paged(RouteAnswer, frozen=True, kw_only=True):
    """An answer with a page of a list, and ``next`` if there is more."""

    next: str | UnsetType = UNSET


class RowPage(NamedTuple, Generic[Shown]):
    """A page of a list, with ``next`` if there is more."""

    # ``next`` is the place of the page's last row, and so reveals nothing that the row did not.
    shown: list[Shown]
    next: str | UnsetType


def page_of(
    rows: Sequence[AnyRow],
    order: Order,
    show: Callable[[AnyRow], Shown | None],
    *,
    limit: int,
    fetched: int | None = None,
) -> RowPage[Shown]:
    """Return a page of rows.

    Args:
        rows: The rows, at most ``fetched`` of them.
        order: Their order.
        show: Returns a row as the API shows it, or None to leave it out.
        limit: The most rows of the page.
        fetched: How many rows the database was asked for; with as many rows, there may be more.  One above ``limit`` if
            omitted.
    """
    fetched = limit + 1 if fetched is None else fetched
    page: list[Shown] = []
    last: AnyRow | None = None
    for place, row in enumerate(rows):
        # The last fetched row is not shown: it only shows that there is a next page.
        if len(page) == limit or place == fetched - 1:
            break
        shown = show(row)
        last = row
        if shown is not None:
            page.append(shown)
    else:
        return RowPage(page, UNSET)
    return RowPage(page, place_of(last, order) if last is not None else UNSET)


def page_in_state(
    fetch: Callable[[int], Sequence[AnyRow]],
    order: Order,
    show: Callable[[AnyRow], InState],
    *,
    limit: int,
    state: str | None,
) -> RowPage[InState]:
    """Return a page of the rows in a state.

    Args:
        fetch: Returns at most the given number of rows from the database.
        order: Their order.
        show: Returns a row as the API shows it.
        limit: The most rows of the page.
        state: The state, or None for any.

    Returns:
        The page.  It may be short, or empty, and still have a next one.
    """

    def shown(row: AnyRow) -> InState | None:
        view = show(row)
        return view if state in (None, view.state) else None

    page = page_of(fetch(limit + 1), order, shown, limit=limit)
    # Few rows have another state than their columns say, so the first read is usually enough.
    enough = state in (None, "expired", "ended") or len(page.shown) == limit or limit + 1 >= MAX_ROWS_READ
    if enough or page.next is UNSET:
        return page
    return page_of(fetch(MAX_ROWS_READ), order, shown, limit=limit, fetched=MAX_ROWS_READ)
