# SPDX-License-Identifier: Apache-2.0
"""*Now*: whether anything is refused and why, the fleet of verifiers, the audit log, rates, and decisions over time.

The page is whole without JavaScript; with it, a stream replaces its parts each second.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.curve import Curve, draw_curve
from arx_caps.console.live import Broadcast, StreamEvent
from arx_caps.console.records import time_of
from arx_caps.console.time_range import AGES, keep_range, range_of
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.totals import READ, Totals, TotalsQuery, get_totals, totals_of
from arx_caps.mint.api.routes.operations.status import StatusShown, show_status, status_of
from arx_caps.mint.context import MintContext
from arx_caps.revocation.wire import GONE_MS, count_states
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError

HOME: Final = "/console/now"
EVERY_S: Final = 1.0
CURVE_S: Final = 10.0  # how often a live page's curve is drawn again: its steps are minutes or longer
DEFAULT: Final = "1h"


def show_now(visit: Visit) -> Response:
    """Show the state of the realm."""
    status, since = visit.call(show_status), _since(visit)
    page = visit.render(
        "now.html", title="Now", command="arx status", **_values(status, _curve_of(visit, since), since)
    )
    return keep_range(visit, page)


def stream_now(visit: Visit) -> Response:
    """Stream the state of the realm, with the curve if the operator may see it."""
    visit.call(show_status)
    since = _since(visit)
    if not visit.may(READ):
        return visit.stream(broadcast_status(visit), lambda status, _: _event(visit, (status, None), since))
    _curve_of(visit, since)  # recorded once: that this operator sees it
    broadcast = visit.live.broadcast(f"{HOME}?{since}", _follow(visit.mint, since), EVERY_S)
    return visit.stream(broadcast, lambda seen, _: _event(visit, seen, since))


def broadcast_status(visit: Visit) -> Broadcast:
    """Return the broadcast of the realm's state, which all pages of it share."""
    mint = visit.mint
    return visit.live.broadcast("now", lambda: [status_of(mint)], EVERY_S)


def _event(visit: Visit, seen: tuple[StatusShown, Curve | None], since: str) -> StreamEvent:
    return StreamEvent(visit.fragment("now_parts.html", **_values(*seen, since)))


def _follow(mint: MintContext, since: str) -> Callable[[], list[tuple[StatusShown, Curve | None]]]:
    """Return what produces the state, each time, and the curve, which it draws less often."""
    drawn: tuple[float, Curve | None] = (-math.inf, None)

    def produce() -> list[tuple[StatusShown, Curve | None]]:
        nonlocal drawn
        if time.monotonic() - drawn[0] >= CURVE_S:
            drawn = time.monotonic(), _draw(lambda: totals_of(mint.log, TotalsQuery(since=time_of(since))))
        return [(status_of(mint), drawn[1])]

    return produce


def _curve_of(visit: Visit, since: str) -> Curve | None:
    if not visit.may(READ):
        return None
    return _draw(lambda: visit.call(get_totals, query={"since": time_of(since)}))


def _draw(read: Callable[[], Totals]) -> Curve | None:
    """Return the curve; None while the log does not answer, since the page must be there then."""
    with contextlib.suppress(StoreError):
        return draw_curve(read(), now_ms())
    return None


def _since(visit: Visit) -> str:
    return range_of(visit, DEFAULT) or DEFAULT


def _values(status: StatusShown, curve: Curve | None, since: str) -> dict[str, Any]:
    # Of a service that runs, what was silent for longer has been replaced, and is on the page of verifiers alone.
    present = {one.service for one in status.verifiers if one.state != "gone"}
    fleet = [
        one for one in status.verifiers if one.state != "gone" or one.age_ms < GONE_MS or one.service not in present
    ]
    # A late or gone verifier refuses every call: a kill that it has not applied does no harm.
    behind = max((one.behind for one in fleet if one.state == "live"), default=0)
    counts = count_states((one.state, one.relay_of) for one in fleet)
    return {
        "status": status,
        "verifiers": fleet,
        "fleet": counts,
        "behind": behind,
        "curve": curve,
        "since": since,
        "ages": AGES,
    }


PAGES: Final = (Page("GET", HOME, show_now), Page("GET", f"{HOME}/live", stream_now))
