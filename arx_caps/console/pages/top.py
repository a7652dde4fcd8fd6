# SPDX-License-Identifier: Apache-2.0
"""*Top*: the agents, sessions, tools and reasons with the most decisions over a time, and the rate of decisions.

It reads the totals that the log keeps.  Its pictures are SVG that the server draws.
"""

from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.command import command
from arx_caps.console.curve import decisions, draw_curve, refused
from arx_caps.console.records import spell_time, time_of
from arx_caps.console.time_range import AGES, keep_range, range_of
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.totals import TopNames, get_top, get_totals
from arx_verifier.clock import now_ms

PATH: Final = "/console/top"
KINDS: Final = (("agent", "Agents"), ("session", "Sessions"), ("tool", "Tools"), ("reason", "Reasons"))
ROWS: Final = 10
DEFAULT: Final = "1h"


def show_top(visit: Visit) -> Response:
    """Show who and what had the most decisions over a time."""
    text, order = range_of(visit, DEFAULT) or DEFAULT, visit.query.get("order", "all")
    span: dict[str, Any] = {"since": time_of(text)}
    if until := visit.query.get("until", ""):
        span["until"] = time_of(until)
    totals = visit.call(get_totals, query=span)
    tops = [
        (by, label, visit.call(get_top, query={"by": by, "order": order, "limit": ROWS, **span})) for by, label in KINDS
    ]
    page = visit.render(
        "top.html",
        title="Top",
        command=command("audit top", {"since": text, "order": order, "until": spell_time(until)}),
        tops=[(by, label, top, _most(top)) for by, label, top in tops],
        totals=totals,
        decisions=decisions(totals.total),
        refused=refused(totals.total),
        seconds=max(1.0, (min(totals.until, now_ms()) - totals.since) / 1000),
        curve=draw_curve(totals, now_ms()),
        refusals=refused,
        decided=decisions,
        ages=AGES,
        since=text,
        order=order,
        # What a row leads to: the same time, and the refusals alone where they are counted.
        span={"since": text} | ({"until": until} if until else {}) | ({"reason": "deny"} if order == "refused" else {}),
    )
    return keep_range(visit, page)


def _most(top: TopNames) -> int:
    count = refused if top.order == "refused" or top.by == "reason" else decisions
    return max((count(row) for row in top.rows), default=0) or 1


PAGES: Final = (Page("GET", PATH, show_top),)
