# SPDX-License-Identifier: Apache-2.0
"""The options of queries of the mint's log, and the pages of their answers.  LOG 3."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.parse import Since

F = TypeVar("F", bound=Callable[..., Any])

RECORDS: Final = "/v1/audit/records"
NODES: Final = "/v1/audit/nodes"
PAGE: Final = 1000
_WHOSE: Final = ("session", "agent", "subject", "task", "link")
_NAMES: Final = (*_WHOSE, "tool", "connection", "reason", "since", "until")


class Asking:
    """A query of the log.

    Attributes:
        whose: The filters by session, agent, subject, task and link.
        query: All filters, as parameters of the mint's API.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.query = {name: given[name] for name in _NAMES if given.get(name) is not None}
        self.whose = {name: given[name] for name in _WHOSE if given.get(name) is not None}

    @property
    def one_id(self) -> tuple[str, str] | None:
        """The filter, if the query has one filter, which is a session, a task or a link; else None."""
        if len(self.query) == 1 and next(iter(self.query)) in ("session", "task", "link"):
            return next(iter(self.query.items()))
        return None

    def page(self, mint: Caller, **page: Any) -> dict[str, Any]:
        """Return one page of the answer."""
        return mint.call("GET", RECORDS, query={**self.query, **page})

    def newest(self, mint: Caller, limit: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the newest records, the oldest first, and the first answer, which has the total and the log's size."""
        first = answer = self.page(mint, limit=min(limit, PAGE))
        found = list(answer["records"])
        while answer["next"] is not None and len(found) < limit:
            answer = self.page(mint, limit=min(limit - len(found), PAGE), before=answer["next"])
            found += answer["records"]
        return found[::-1], first

    def denied(self, mint: Caller, limit: int) -> list[dict[str, Any]]:
        """Return the newest refusals that match."""
        asking = Asking({**self.query, "reason": "deny"})
        return asking.newest(mint, limit)[0]

    def rising(self, mint: Caller, after: int = -1) -> Iterator[dict[str, Any]]:
        """Yield pages after an index, up to the size of the log at the first page."""
        size = None
        while True:
            answer = self.page(mint, limit=PAGE, after=after)
            size = answer["size"] if size is None else size
            answer["records"] = [each for each in answer["records"] if each["index"] < size]
            # A page without records may be one that took long to search.
            if not answer["records"] and answer["searched"] is None:
                return
            yield answer
            after = answer["next"]


def question_options(function: F) -> F:
    """Add the options of a query; the function gets them as ``asking``."""

    @functools.wraps(function)
    def with_question(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _NAMES}
        return function(*args, asking=Asking(given), **options)

    wrapped: Any = with_question
    for name, kind, text in reversed(_OPTIONS):
        wrapped = click.option(f"--{name}", type=kind, help=text)(wrapped)
    return wrapped  # type: ignore[no-any-return]  # click's decorators keep no type


_OPTIONS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("session", str, "select this session and everything started in it"),
    ("agent", str, "select this agent, or a pattern such as acme/**: its sessions, and delegations to it"),
    ("subject", str, "select this subject, as a target: subject:…"),
    ("task", str, "select this task or sub-task, what it came from and what came from it"),
    ("link", str, "select this delegation, what it came from and what came from it"),
    ("tool", str, "select this tool, or a pattern such as orders.*; for events, the kind"),
    ("connection", str, "select records that name this account of a person at an upstream, as c-…"),
    ("reason", str, "select this reason code, or allow, deny, end, would_refuse, effect, counted, gap, event"),
    ("since", Since(), "select from this time on: 2026-01-31T12:00:00Z, ms since 1970, or an age such as 2h"),
    ("until", Since(), "select until before this time"),
)
