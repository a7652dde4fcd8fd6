# SPDX-License-Identifier: Apache-2.0
"""The time that an operator looks at: chosen on one page, and kept for the others in a cookie."""

from typing import Final

from starlette.responses import Response

from arx_caps.console.visit import Visit

COOKIE: Final = "arx-range"
AGES: Final = (("15m", "15 minutes"), ("1h", "hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"))
_CHOICES: Final = dict(AGES)


def range_of(visit: Visit, default: str) -> str:
    """Return the time of a page: that of its address, else the one that was chosen before, else the default."""
    if "since" in visit.query:
        return visit.query["since"].strip()
    kept = visit.request.cookies.get(COOKIE, "")
    return kept if kept in _CHOICES else default


def keep_range(visit: Visit, response: Response) -> Response:
    """Return a page that has the browser keep the time of its address, until the browser ends."""
    chosen = visit.query.get("since")
    # Not a time between two dates: such an address comes from a colleague, for one look.
    if chosen in _CHOICES and "until" not in visit.query:
        response.set_cookie(COOKIE, chosen, path="/console", httponly=True, samesite="lax")
    elif chosen == "":
        response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="lax")
    return response
