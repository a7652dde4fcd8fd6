# SPDX-License-Identifier: Apache-2.0
"""The mint's HTTP application: its routes, its middleware and its lifespan.  CONTROL 1.

Every route but those of ``health`` is an ``Endpoint``, which authenticates its caller.
"""

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from arx_caps.http.cross_origin import CrossOrigin
from arx_caps.mint.api import openapi, problems
from arx_caps.mint.api.access_log import AccessLog
from arx_caps.mint.api.endpoint import Endpoint, answer_request
from arx_caps.mint.api.metrics import Metrics
from arx_caps.mint.api.routes.events import audit, retention, totals, trail, webhooks
from arx_caps.mint.api.routes.identity import agents, keys, operator_login, operators, services, signing_keys
from arx_caps.mint.api.routes.oauth import authorize, clients, connect, connections, exchange, handles, oauth
from arx_caps.mint.api.routes.operations import console, health, kills, policy, status
from arx_caps.mint.api.routes.work import approvals, budgets, marks, session_tree, sessions, tasks
from arx_caps.mint.login.oidc import OidcLogin
from arx_caps.mint.oauth.metadata import CROSS_ORIGIN
from arx_caps.mint.runtime import MintRuntime

ENDPOINTS: Final = (
    *operators.ENDPOINTS,
    *operator_login.ENDPOINTS,
    *keys.ENDPOINTS,
    *signing_keys.ENDPOINTS,
    *policy.ENDPOINTS,
    *services.ENDPOINTS,
    *agents.ENDPOINTS,
    *clients.ENDPOINTS,
    *handles.ENDPOINTS,
    *connections.ENDPOINTS,
    *sessions.ENDPOINTS,
    *session_tree.ENDPOINTS,
    *marks.ENDPOINTS,
    *tasks.ENDPOINTS,
    *approvals.ENDPOINTS,
    *budgets.ENDPOINTS,
    *exchange.ENDPOINTS,
    *kills.ENDPOINTS,
    *audit.ENDPOINTS,
    *trail.ENDPOINTS,
    *totals.ENDPOINTS,
    *retention.ENDPOINTS,
    *status.ENDPOINTS,
    *console.ENDPOINTS,
    *webhooks.ENDPOINTS,
)


def create_app(mint: MintRuntime) -> Starlette:
    """Return the application of a mint.

    Args:
        mint: The mint; the application's lifespan starts and closes it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Threads and files are opened here and not at import, so that each worker process has its own.
        await run_in_threadpool(mint.start)
        try:
            yield
        finally:
            await run_in_threadpool(mint.close)

    metrics = Metrics(mint)
    app = Starlette(
        routes=[
            *_routes(mint),
            *oauth.routes(),
            *authorize.routes(),
            *connect.routes(),
            *operator_login.routes(),
            *health.routes(functools.partial(describe_api, mint.realm.issuer)),
        ],
        lifespan=lifespan,
        # Every refusal is a problem of RFC 9457, the framework's own and an unexpected error included.
        exception_handlers={HTTPException: problems.of_http, Exception: problems.of_bug},
        middleware=[
            Middleware(AccessLog, count=metrics.count),
            Middleware(CrossOrigin, is_open=lambda scope: scope["path"] in (*oauth.METADATA, *CROSS_ORIGIN)),
            Middleware(_FixedPaths, mint=mint),
        ],
    )
    # A redirect would make a client send its proof to a URL that it did not sign.
    app.router.redirect_slashes = False
    app.state.mint, app.state.metrics = mint, metrics
    app.state.login = OidcLogin(mint, mint.realm.login) if mint.realm.login is not None else None
    return app


def describe_api(issuer: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of every route.  CONTROL 4.1.

    Args:
        issuer: The mint's public base URL.
    """
    return openapi.describe(
        ENDPOINTS, (*oauth.OPEN, *authorize.OPEN, *connect.OPEN, *operator_login.OPEN, *health.OPEN), issuer=issuer
    )


def _routes(mint: MintRuntime) -> list[Route]:
    paths: dict[str, dict[str, Endpoint]] = {}
    # The router tries paths in order, so those that agents call often come first.
    for endpoint in (*sessions.ENDPOINTS, *tasks.ENDPOINTS, *exchange.ENDPOINTS, *ENDPOINTS):
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _Path(mint, methods), methods=sorted(methods)) for path, methods in paths.items()]


class _FixedPaths:
    """Middleware that serves the endpoints whose path has no parameters; the router serves the rest.

    Args:
        app: The router, with all its refusals.
        mint: The mint.
    """

    # The router tries one regular expression after another, in five more calls for each request.
    def __init__(self, app: ASGIApp, mint: MintRuntime) -> None:
        self._app, self._mint = app, mint
        self._endpoints = {(each.method, each.path): each for each in ENDPOINTS if "{" not in each.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        response = await answer_request(endpoint, self._mint, Request(scope, receive))
        await response(scope, receive, send)


class _Path:
    """A path with its methods, as an ASGI application."""

    # Starlette wraps a function in two more calls, which each request would pay for.
    def __init__(self, mint: MintRuntime, methods: dict[str, Endpoint]) -> None:
        self._mint, self._methods = mint, methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # RFC 9110 9.3.2: HEAD answers like GET, and the server leaves out the body.
        endpoint = self._methods["GET" if scope["method"] == "HEAD" else scope["method"]]
        response = await answer_request(endpoint, self._mint, Request(scope, receive))
        await response(scope, receive, send)
