# SPDX-License-Identifier: Apache-2.0
"""What commands that ask the mint's log share: the options of a question, and its pages.  LOG 3."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from arx_caps.cli.mint_session import Caller
from arx_caps.cli.parse import Moment
from arx_caps.durations import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

RECORDS: Final = "/v1/audit/records"
NODES: Final = "/v1/audit/nodes"
PAGE: Final = 1000
LONGEST_AGO_MS: Final = 36_525 * 86_400_000  # a century: records are kept for years, other than anything that lives
_WHOSE: Final = ("session", "agent", "subject", "task", "link")
_NAMES: Final = (*_WHOSE, "tool", "reason", "since", "until")


class Since(Moment):
    """A time, or how long ago: ``2h``."""

    name = "time"
    forms = "how long ago (2h), ms since 1970, or a time with its zone, 2026-01-31T12:00:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        try:
            return time.time_ns() // 1_000_000 - parse_duration(value, LONGEST_AGO_MS)
        except ValueError:
            return super().convert(value, param, ctx)


class Asking:
    """A question to the log.

    Attributes:
        whose: The ids that it names.
        query: All of it, as the mint takes it.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.query = {name: given[name] for name in _NAMES if given[name] is not None}
        self.whose = {name: given[name] for name in _WHOSE if given[name] is not None}

    @property
    def one_id(self) -> tuple[str, str] | None:
        """The one session, task or link that is asked for and nothing else, or None."""
        if len(self.query) == 1 and next(iter(self.query)) in ("session", "task", "link"):
            return next(iter(self.query.items()))
        return None

    def page(self, mint: Caller, **page: Any) -> dict[str, Any]:
        """Return one page."""
        return mint.call("GET", RECORDS, query={**self.query, **page})

    def newest(self, mint: Caller, limit: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the newest records, oldest first, and the total of all that there are."""
        answer = self.page(mint, limit=min(limit, PAGE))
        found, total = answer["records"], answer["total"]
        while answer["next"] is not None and len(found) < limit:
            answer = self.page(mint, limit=min(limit - len(found), PAGE), before=answer["next"])
            found += answer["records"]
        return found[::-1], total

    def denied(self, mint: Caller, limit: int) -> list[dict[str, Any]]:
        """Return the newest refusals among them."""
        asking = Asking({**dict.fromkeys(_NAMES), **self.query, "reason": "deny"})
        return asking.newest(mint, limit)[0]

    def rising(self, mint: Caller, after: int = -1) -> Iterator[dict[str, Any]]:
        """Yield pages from behind an index to the end of the log as it is at the first of them."""
        size = None
        while True:
            answer = self.page(mint, limit=PAGE, after=after)
            size = answer["size"] if size is None else size
            answer["records"] = [each for each in answer["records"] if each["index"] < size]
            if not answer["records"]:
                return
            yield answer
            after = answer["records"][-1]["index"]


def question_options(function: F) -> F:
    """Add the options of a question, passed on as ``asking``."""

    @functools.wraps(function)
    def with_question(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _NAMES}
        return function(*args, asking=Asking(given), **options)

    wrapped: Any = with_question
    for name, kind, text in reversed(_OPTIONS):
        wrapped = click.option(f"--{name}", type=kind, help=text)(wrapped)
    return wrapped  # type: ignore[no-any-return]  # click's decorators keep no type


_OPTIONS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("session", str, "this session, and all that came of it"),
    ("agent", str, "this agent or pattern (acme/**): its sessions, and where a delegation names it"),
    ("subject", str, "on behalf of this subject, a target: subject:…"),
    ("task", str, "this task or sub-task: what is above and below it"),
    ("link", str, "this delegation: what is above and below it"),
    ("tool", str, "only this tool, or a pattern such as orders.*; of an event its kind"),
    ("reason", str, "only this reason code, or allow, deny, end, counted, gap, event"),
    ("since", Since(), "from this time on: 2026-01-31T12:00:00Z, ms since 1970, or how long ago: 2h"),
    ("until", Since(), "until before this time"),
)
