# SPDX-License-Identifier: Apache-2.0
"""Routes of the OAuth front, for stock clients and their libraries.  CONTROL 5."""

from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.endpoint import RouteAnswer
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.api.problems import of_error
from arx_caps.mint.keys.signing_keys import MAX_AGE_S
from arx_verifier.errors import ArxError

JWKS: Final = "/oauth/jwks"
_PUBLIC: Final = {"Cache-Control": f"public, max-age={MAX_AGE_S}", "X-Content-Type-Options": "nosniff"}


class Jwks(RouteAnswer, frozen=True):
    """The keys that sign access tokens (RFC 7517)."""

    keys: list[dict[str, Any]]


OPEN: Final = (OpenRoute(JWKS, "Return the keys that sign access tokens.", {200: Jwks}, ("store_unavailable",)),)


async def jwks(request: Request) -> Response:
    """Return the keys that sign access tokens."""
    note(request, route=JWKS)
    mint = request.app.state.mint
    try:
        keys = await run_in_threadpool(mint.signing_keys.published)
    except ArxError as error:
        return of_error(error, mint.realm)
    return Response(msgspec.json.encode(Jwks(keys=keys)), 200, _PUBLIC, media_type="application/json")


def routes() -> list[Route]:
    """Return the routes."""
    return [Route(JWKS, jwks)]
