# SPDX-License-Identifier: Apache-2.0
"""*Now*: whether anything is refused and why, the fleet of verifiers, the audit log, and rates.

The page is whole without JavaScript; with it, a stream replaces its parts each second.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.live import Sent
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.status import StatusShown, VerifierShown, show_status, status_of

EVERY_S: Final = 1.0
GONE_MS: Final = 60_000  # a restart is over by then: who was silent for longer is on the page of verifiers alone


def show_now(visit: Visit) -> Response:
    """Show the state of the realm."""
    status = visit.call(show_status)
    return visit.render("now.html", title="Now", command="arx status", **_values(status))


def stream_now(visit: Visit) -> Response:
    """Stream the state of the realm."""
    visit.call(show_status)
    mint = visit.mint
    broadcast = visit.live.broadcast("now", lambda: [status_of(mint)], EVERY_S)
    return visit.stream(
        broadcast,
        lambda status, _: Sent(visit.fragment("now_parts.html", **_values(status))),
    )


def _values(status: StatusShown) -> dict[str, Any]:
    fleet = [one for one in status.verifiers if one.state != "gone" or one.age_ms < GONE_MS]
    # One that is late or gone refuses every call: what it has not applied harms nobody.
    behind = max((one.behind for one in fleet if one.state == "live"), default=0)
    return {"status": status, "verifiers": fleet, "fleet": _fleet(fleet), "behind": behind}


def _fleet(verifiers: Sequence[VerifierShown]) -> dict[str, int]:
    counts = Counter[str]()
    for one in verifiers:
        # A relay counts as the verifiers behind it.
        counts[one.state] += 1 if one.relay_of is None else one.relay_of
    return {state: counts[state] for state in ("live", "late", "gone")}


PAGES: Final = (Page("GET", "/console/now", show_now), Page("GET", "/console/now/live", stream_now))
