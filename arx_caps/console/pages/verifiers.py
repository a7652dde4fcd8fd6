# SPDX-License-Identifier: Apache-2.0
"""*Verifiers*: the enrolled services, and beside each the processes that are present; silent ones first."""

from collections import defaultdict
from typing import Final, NamedTuple

from starlette.responses import Response

from arx_caps.console.live import StreamEvent
from arx_caps.console.pages.now import broadcast_status
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.identity.services import ServiceShown, list_services
from arx_caps.mint.api.routes.operations.status import StatusShown, VerifierShown, show_status

HOME: Final = "/console/verifiers"
SHOWN: Final = 100


class ServiceWithVerifiers(NamedTuple):
    """A service with its verifiers.

    Attributes:
        name: Its audience; for verifiers of no enrolled service, what their ids begin with.
        service: The enrolled service, or None.
        verifiers: Its processes that the store knows, silent ones first.
    """

    name: str
    service: ServiceShown | None
    verifiers: list[VerifierShown]

    @property
    def state(self) -> str:
        """The worst state of its processes, or ``never seen``."""
        states = {one.state for one in self.verifiers}
        return next((state for state in ("gone", "late", "live") if state in states), "never seen")


def show_verifiers(visit: Visit) -> Response:
    """Show services and verifiers."""
    services = visit.call(list_services, query={"limit": SHOWN, "after": visit.query.get("after")})
    status = visit.call(show_status)
    return visit.render(
        "verifiers.html",
        title="Verifiers",
        command="arx verifier list --all",
        status=status,
        rows=_rows(services.services, status, all_shown=not services.next and "after" not in visit.query),
        services=services,
        live="after" not in visit.query,
    )


def stream_verifiers(visit: Visit) -> Response:
    """Stream the same."""
    services = visit.call(list_services, query={"limit": SHOWN})
    visit.call(show_status)

    def show(status: StatusShown, _: int) -> StreamEvent:
        rows = _rows(services.services, status, all_shown=not services.next)
        return StreamEvent(visit.fragment("verifiers_list.html", rows=rows, status=status))

    return visit.stream(broadcast_status(visit), show)


def _rows(services: list[ServiceShown], status: StatusShown, *, all_shown: bool) -> list[ServiceWithVerifiers]:
    by_service = defaultdict(list)
    for one in status.verifiers:
        by_service[one.service or one.id].append(one)
    rows = [ServiceWithVerifiers(each.audience, each, by_service.pop(each.audience, [])) for each in services]
    # The mint itself, relays, and processes of services that were removed.
    rows += [ServiceWithVerifiers(name, None, found) for name, found in by_service.items() if all_shown]
    order = ("never seen", "gone", "late", "live")
    return sorted(rows, key=lambda row: (order.index(row.state), row.name))


PAGES: Final = (Page("GET", HOME, show_verifiers), Page("GET", f"{HOME}/live", stream_verifiers))
