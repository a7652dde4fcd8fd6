# SPDX-License-Identifier: Apache-2.0
"""Routes without authentication: health, reason codes, the OpenAPI document.  CONTROL 4.

They reveal nothing about the realm's users.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_caps.mint.api import openapi, problems
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.endpoint import RouteAnswer
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.api.request_runner import URGENT_THREADS, in_thread
from arx_caps.mint.context import VERSION, MintContext
from arx_caps.mint.rate_limit import Caller

_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Health(RouteAnswer, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(RouteAnswer, frozen=True):
    """Whether the mint grants, what prevents it, the state of its audit log, its identity, and its version.

    ``warnings`` will prevent it soon.  ``caller`` is how this request names its sender: ``direct``, ``forwarded`` by a
    proxy of `proxies`, ``hidden`` by one, which sends no ``X-Forwarded-For``, or ``unlisted``: by another proxy.
    """

    ready: bool
    because: list[str]
    log: Literal["ok", "halted"]
    realm: str
    issuer: str
    log_key: str
    version: str
    warnings: list[str]
    caller: Caller


OPEN: Final = (
    OpenRoute("/healthz", "Report that the process answers.", {200: Health}),
    OpenRoute("/readyz", "Report whether the mint can grant.", {200: Readiness, 503: Readiness}),
    OpenRoute(openapi.PATH, "Return this document.", {200: dict}),
    OpenRoute(f"{problems.PATH}{{code}}", "Explain the code of a refusal.", {200: None}, ("not_found",)),
)


async def healthz(request: Request) -> Response:
    """Report that the process answers."""
    note(request, route="/healthz")
    return _json(msgspec.json.encode(Health()))


async def readyz(request: Request) -> Response:
    """Report whether the mint can grant: it records, sees kills, and its log is signed."""
    note(request, route="/readyz")
    mint: MintContext = request.app.state.mint
    peer = request.client.host if request.client is not None else None
    # In a thread: ``ready`` may wait for a lock, ``warnings`` for a disk, and the event loop must go on for all others.
    because, warnings = await in_thread(URGENT_THREADS, lambda: (mint.ready(), mint.warnings()))
    log: Literal["ok", "halted"] = "ok" if mint.log.publisher.halted is None else "halted"
    answer = Readiness(
        ready=not because,
        because=because,
        log=log,
        realm=mint.realm.name,
        issuer=mint.realm.issuer,
        log_key=str(mint.log.publisher.signer.key),
        version=VERSION,
        warnings=warnings,
        caller=mint.limits.caller_of(peer, request.headers.getlist("x-forwarded-for")),
    )
    # A load balancer stops sending requests to a mint that answers 503.
    return _json(msgspec.json.encode(answer), 503 if because else 200)


async def explain(request: Request) -> Response:
    """Explain the code of a refusal; the ``type`` of a problem is this address."""
    note(request, route=f"{problems.PATH}{{code}}")
    code = request.path_params["code"]
    known = problems.find_code(code)
    if known is None:
        return problems.problem("not_found", "no such code", realm=request.app.state.mint.realm)
    text = f"{code} ({known.status})\n\n{known.means}\n\nwhat to do: {known.do}\n"
    return Response(text, 200, dict(_HEADERS), media_type="text/plain")


def routes(describe: Callable[[], Mapping[str, Any]]) -> list[Route]:
    """Return the open routes.

    Args:
        describe: Returns the OpenAPI document; called at the first request for it.
    """

    @functools.cache  # strangers may ask for it as often as they like
    def document() -> bytes:
        return msgspec.json.encode(describe())

    async def describe_routes(request: Request) -> Response:
        """Return the OpenAPI document."""
        note(request, route=openapi.PATH)
        return _json(document())

    served = {
        "/healthz": healthz,
        "/readyz": readyz,
        openapi.PATH: describe_routes,
        f"{problems.PATH}{{code}}": explain,
    }
    return [Route(route.path, served[route.path]) for route in OPEN]


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, dict(_HEADERS), media_type="application/json")
