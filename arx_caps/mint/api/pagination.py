# SPDX-License-Identifier: Apache-2.0
"""Lists in pages: each begins after the last row of the page before, however many rows came meanwhile.  CONTROL 4.3.

A page's ``next`` is the place of its last row; it reveals nothing that the row did not.  A filter by a state that only
the kill epoch knows looks at a bounded number of rows.  Such a page may be short, or empty, and still have a next one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, NamedTuple, Protocol, TypeVar

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Query
from arx_caps.mint.db.cursor import Order, place_of
from arx_caps.mint.db.database import PAGE

DEFAULT_LIMIT: Final = 100
LOOKED_AT: Final = PAGE + 1  # rows that one page looks at for those it is asked for

Shown = TypeVar("Shown")


class _HasState(Protocol):
    @property
    def state(self) -> str: ...


InState = TypeVar("InState", bound=_HasState)


class PageQuery(Query, frozen=True):
    """How many, and behind which place."""

    limit: Annotated[int, Meta(ge=1, le=PAGE)] = DEFAULT_LIMIT
    after: Annotated[str, Meta(max_length=200)] | None = None


class RowPage(NamedTuple, Generic[Shown]):
    """A page of a list, and ``next`` where there is more."""

    shown: list[Shown]
    next: str | UnsetType


def page_of(
    rows: Sequence[Mapping[str, Any]],
    order: Order,
    show: Callable[[Mapping[str, Any]], Shown | None],
    *,
    limit: int,
    fetched: int,
) -> RowPage[Shown]:
    """Make a page of rows.

    Args:
        rows: What was found, at most ``fetched`` of it.
        order: The order.
        show: Shows a row; None passes it over.
        limit: How many rows the page has at most.
        fetched: How many rows were asked for; as many as that mean that there may be more.
    """
    found: list[Shown] = []
    last: Mapping[str, Any] | None = None
    for place, row in enumerate(rows):
        if len(found) == limit or place == fetched - 1:
            break
        shown = show(row)
        last = row
        if shown is not None:
            found.append(shown)
    else:
        return RowPage(found, UNSET)
    return RowPage(found, place_of(last, order) if last is not None else UNSET)


def page_in_state(
    fetch: Callable[[int], Sequence[Mapping[str, Any]]],
    order: Order,
    show: Callable[[Mapping[str, Any]], InState],
    *,
    limit: int,
    state: str | None,
) -> RowPage[InState]:
    """Make a page of what is in a state; most rows are in the one that their own words say.

    Args:
        fetch: Asks the database for at most so many rows.
        order: The order.
        show: Shows a row.
        limit: How many rows the page has at most.
        state: What is asked for.  Where only the kill epoch knows it, more rows are looked at if the first do not do.
    """

    def shown(row: Mapping[str, Any]) -> InState | None:
        found = show(row)
        return found if state in (None, found.state) else None

    page = page_of(fetch(limit + 1), order, shown, limit=limit, fetched=limit + 1)
    enough = state in (None, "expired", "ended") or len(page.shown) == limit or limit + 1 >= LOOKED_AT
    if enough or page.next is UNSET:
        return page
    return page_of(fetch(LOOKED_AT), order, shown, limit=limit, fetched=LOOKED_AT)
