# SPDX-License-Identifier: Apache-2.0
"""*Now*: whether anything is refused and why, the fleet of verifiers, the audit log, and rates.

The page is whole without JavaScript; with it, a stream replaces its parts each second.
"""

from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.live import Broadcast, StreamEvent
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.status import StatusShown, show_status, status_of
from arx_caps.revocation import GONE_MS, count_states

EVERY_S: Final = 1.0


def show_now(visit: Visit) -> Response:
    """Show the state of the realm."""
    status = visit.call(show_status)
    return visit.render("now.html", title="Now", command="arx status", **_values(status))


def stream_now(visit: Visit) -> Response:
    """Stream the state of the realm."""
    visit.call(show_status)
    return visit.stream(
        broadcast_status(visit), lambda status, _: StreamEvent(visit.fragment("now_parts.html", **_values(status)))
    )


def broadcast_status(visit: Visit) -> Broadcast:
    """Return the broadcast of the realm's state, which all pages of it share."""
    mint = visit.mint
    return visit.live.broadcast("now", lambda: [status_of(mint)], EVERY_S)


def _values(status: StatusShown) -> dict[str, Any]:
    # Of a service that runs, what was silent for longer has been replaced, and is on the page of verifiers alone.
    present = {one.service for one in status.verifiers if one.state != "gone"}
    fleet = [
        one for one in status.verifiers if one.state != "gone" or one.age_ms < GONE_MS or one.service not in present
    ]
    # A late or gone verifier refuses every call: a kill that it has not applied does no harm.
    behind = max((one.behind for one in fleet if one.state == "live"), default=0)
    counts = count_states((one.state, one.relay_of) for one in fleet)
    return {"status": status, "verifiers": fleet, "fleet": counts, "behind": behind}


PAGES: Final = (Page("GET", "/console/now", show_now), Page("GET", "/console/now/live", stream_now))
