# SPDX-License-Identifier: Apache-2.0
"""The mint's HTTP application: its routes, and what stands around them.  CONTROL 1.

Every route but those of ``health`` is an ``Endpoint`` and so needs a proof.  Threads and files are opened by the
lifespan and never at import.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from arx_caps.mint.api import openapi, problems
from arx_caps.mint.api.access_log import Observed
from arx_caps.mint.api.endpoint import Endpoint, answer_request
from arx_caps.mint.api.metrics import Metrics
from arx_caps.mint.api.routes import (
    agents,
    approvals,
    audit,
    exchange,
    health,
    keys,
    kills,
    operators,
    policy,
    retention,
    services,
    sessions,
    tasks,
    trail,
)
from arx_caps.mint.runtime import MintRuntime

ENDPOINTS: Final = (
    *operators.ENDPOINTS,
    *keys.ENDPOINTS,
    *policy.ENDPOINTS,
    *services.ENDPOINTS,
    *agents.ENDPOINTS,
    *sessions.ENDPOINTS,
    *tasks.ENDPOINTS,
    *approvals.ENDPOINTS,
    *exchange.ENDPOINTS,
    *kills.ENDPOINTS,
    *audit.ENDPOINTS,
    *trail.ENDPOINTS,
    *retention.ENDPOINTS,
)


def create_app(mint: MintRuntime) -> Starlette:
    """Make the application of a mint; it starts and closes the mint with itself."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(mint.start)
        try:
            yield
        finally:
            await run_in_threadpool(mint.close)

    metrics = Metrics(mint)
    app = Starlette(
        routes=[*_routes(mint), *health.routes(describe_api(mint.realm.issuer))],
        lifespan=lifespan,
        exception_handlers={HTTPException: problems.of_http, Exception: problems.of_bug},
        middleware=[Middleware(Observed, metrics=metrics)],
    )
    # A redirect would send a proof to an address that it was not made for.
    app.router.redirect_slashes = False
    app.state.mint, app.state.metrics = mint, metrics
    return app


def describe_api(issuer: str) -> dict[str, Any]:
    """Describe every route in an OpenAPI 3.1 document.  CONTROL 4.1."""
    return openapi.describe(ENDPOINTS, health.OPEN, issuer=issuer)


def _routes(mint: MintRuntime) -> list[Route]:
    paths: dict[str, dict[str, Endpoint]] = {}
    # Paths are tried one after the other: those that agents call come first.
    for endpoint in (*sessions.ENDPOINTS, *tasks.ENDPOINTS, *exchange.ENDPOINTS, *ENDPOINTS):
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _Path(mint, methods), methods=sorted(methods)) for path, methods in paths.items()]


class _Path:
    """A path of the table, as an application: Starlette would wrap a function in two more."""

    def __init__(self, mint: MintRuntime, methods: dict[str, Endpoint]) -> None:
        self._mint, self._methods = mint, methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What takes GET takes HEAD, and answers alike; the server leaves out the body.
        endpoint = self._methods["GET" if scope["method"] == "HEAD" else scope["method"]]
        response = await answer_request(endpoint, self._mint, Request(scope, receive))
        await response(scope, receive, send)
