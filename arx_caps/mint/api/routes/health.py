# SPDX-License-Identifier: Apache-2.0
"""Routes without authentication: health, readiness, the meaning of codes and the OpenAPI document.  CONTROL 4.

They reveal nothing of the realm's users.  No request of a stranger makes the mint write or wait for a writer.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_caps.mint.api import openapi, problems
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.endpoint import RouteAnswer
from arx_caps.mint.api.openapi import OpenRoute

_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Health(RouteAnswer, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(RouteAnswer, frozen=True):
    """Whether to ask the mint, what keeps it from granting, whether it signs the audit log, and which mint it is."""

    ready: bool
    because: list[str]
    log: Literal["ok", "halted"]
    realm: str
    issuer: str
    log_key: str


OPEN: Final = (
    OpenRoute("/healthz", "Say that the process answers.", {200: Health}),
    OpenRoute("/readyz", "Say whether the mint is to be asked.", {200: Readiness, 503: Readiness}),
    OpenRoute(openapi.PATH, "Describe this API.", {200: dict}),
    OpenRoute(f"{problems.PATH}{{code}}", "Explain a code of a refusal.", {200: None}, ("not_found",)),
)


async def healthz(request: Request) -> Response:
    """Say that the process answers."""
    note(request, route="/healthz")
    return _json(msgspec.json.encode(Health()))


async def readyz(request: Request) -> Response:
    """Say whether the mint is to be asked: it records, knows the kill epoch, and its audit log is signed."""
    note(request, route="/readyz")
    mint = request.app.state.mint
    because = await run_in_threadpool(mint.ready)
    log: Literal["ok", "halted"] = "ok" if mint.log.publisher.halted is None else "halted"
    told = Readiness(
        ready=not because,
        because=because,
        log=log,
        realm=mint.realm.name,
        issuer=mint.realm.issuer,
        log_key=str(mint.log.publisher.signer.key),
    )
    return _json(msgspec.json.encode(told), 503 if because else 200)


async def explain(request: Request) -> Response:
    """Explain a code of a refusal: what its ``type`` leads to."""
    note(request, route=f"{problems.PATH}{{code}}")
    code = request.path_params["code"]
    known = problems.find_code(code)
    if known is None:
        return problems.problem("not_found", "there is no such code", realm=request.app.state.mint.realm)
    text = f"{code} ({known.status})\n\n{known.means}\n\nwhat to do: {known.do}\n"
    return Response(text, 200, dict(_HEADERS), media_type="text/plain")


def routes(description: Mapping[str, Any]) -> list[Route]:
    """Return the open routes.

    Args:
        description: What is answered about the API.
    """
    document = msgspec.json.encode(description)

    async def describe_routes(request: Request) -> Response:
        """Describe the API."""
        note(request, route=openapi.PATH)
        return _json(document)

    served = {
        "/healthz": healthz,
        "/readyz": readyz,
        openapi.PATH: describe_routes,
        f"{problems.PATH}{{code}}": explain,
    }
    return [Route(each.path, served[each.path]) for each in OPEN]


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, dict(_HEADERS), media_type="application/json")
