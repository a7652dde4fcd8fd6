# SPDX-License-Identifier: Apache-2.0
"""*Top*: the agents, sessions, tools and reasons with the most decisions over a time, and the rate of decisions.

It reads the totals that the log keeps.  Its pictures are SVG that the server draws.
"""

import time
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from arx_caps.console.command import command
from arx_caps.console.records import AGES, spell_time, time_of
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.totals import CountsShown, TopNames, Totals, get_top, get_totals

PATH: Final = "/console/top"
KINDS: Final = (("agent", "Agents"), ("session", "Sessions"), ("tool", "Tools"), ("reason", "Reasons"))
ROWS: Final = 10
DEFAULT: Final = "1h"
_WIDTH, _HEIGHT = 720, 72  # of the sparkline, px
_MOST_BARS: Final = 120


class Bar(NamedTuple):
    """A bar of the sparkline: its place and heights, px, and the counts in its title."""

    x: float
    width: float
    allow: float
    refused: float
    at: int
    counts: CountsShown


def show_top(visit: Visit) -> Response:
    """Show who and what had the most decisions over a time."""
    text, order = visit.query.get("since", DEFAULT), visit.query.get("order", "all")
    span: dict[str, Any] = {"since": time_of(text)}
    if until := visit.query.get("until", ""):
        span["until"] = time_of(until)
    totals = visit.call(get_totals, query=span)
    tops = [
        (by, label, visit.call(get_top, query={"by": by, "order": order, "limit": ROWS, **span})) for by, label in KINDS
    ]
    bars = _bars(totals)
    return visit.render(
        "top.html",
        title="Top",
        command=command("audit top", {"since": text, "order": order, "until": spell_time(until)}),
        tops=[(by, label, top, _most(top)) for by, label, top in tops],
        totals=totals,
        decisions=_decisions(totals.total),
        refused=_refused(totals.total),
        seconds=max(1.0, (min(totals.until, time.time() * 1000) - totals.since) / 1000),
        bars=bars,
        highest=max((_decisions(bar.counts) for bar in bars), default=0),
        size=(_WIDTH, _HEIGHT),
        refusals=_refused,
        decided=_decisions,
        ages=AGES,
        since=text,
        order=order,
        # What a row leads to: the same time, and the refusals alone where they are counted.
        span={"since": text} | ({"until": until} if until else {}) | ({"reason": "deny"} if order == "refused" else {}),
    )


def _refused(counts: CountsShown) -> int:
    return counts.deny + counts.end + counts.counted


def _decisions(counts: CountsShown) -> int:
    return counts.allow + _refused(counts)


def _most(top: TopNames) -> int:
    count = _refused if top.order == "refused" or top.by == "reason" else _decisions
    return max((count(row) for row in top.rows), default=0) or 1


def _bars(totals: Totals) -> list[Bar]:
    """Return the bars of the sparkline: one for each step, or for several if they are many."""
    steps = max(1, (totals.until - totals.since) // totals.step)
    joined = -(-steps // _MOST_BARS)
    sums: dict[int, list[int]] = {}
    for point in totals.points:
        numbers = sums.setdefault((point.at - totals.since) // totals.step // joined, [0] * 5)
        for place, name in enumerate(("allow", "deny", "end", "counted", "other")):
            numbers[place] += getattr(point, name)
    places = {place: CountsShown(*numbers) for place, numbers in sums.items()}
    most = max(map(_decisions, places.values()), default=0) or 1
    width, high = _WIDTH / -(-steps // joined), _HEIGHT - 2
    return [
        Bar(
            round(place * width, 2),
            round(max(1.0, width - 1), 2),
            round(high * counts.allow / most, 2),
            round(high * _refused(counts) / most, 2),
            totals.since + place * joined * totals.step,
            counts,
        )
        for place, counts in sorted(places.items())
    ]


PAGES: Final = (Page("GET", PATH, show_top),)
