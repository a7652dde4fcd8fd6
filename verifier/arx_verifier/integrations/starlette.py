# SPDX-License-Identifier: Apache-2.0
"""Guard an application of Starlette at its routes.  SPEC 8.4.

``guard`` adds ``ArxMiddleware`` to the application, and ``current_grant`` returns the grant of a request.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.errors import SettingsError
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall


def guard(
    app: Starlette, verifier: Verifier, *, tools: Mapping[str, str], public: Iterable[str] = (), **options: Any
) -> None:
    """Guard an application in place, after its routes are declared.

    Middleware that is added later is outside of the guard.  The verifier starts and closes with the application's
    lifespan.

    Args:
        app: The application.
        verifier: The verifier.
        tools: The tool of each guarded route, by the name of the route or endpoint, or by ``METHOD /path``.
        public: The routes that need no token, by name, by ``METHOD /path``, or by path for ``GET``.
        options: ``max_body``, ``trusted_proxies``, ``recheck_ms``, ``limits``, ``effects``, ``mode`` and ``until`` of
            ``ArxMiddleware``, and so on.

    Raises:
        SettingsError: A name or path is of no route or of several, or a route cannot be guarded.
        RuntimeError: The application has started.
    """
    add_guard(app, ArxMiddleware(app, verifier=verifier, tools=tools, public=public, **options))


def add_guard(app: Starlette, guarded: ArxMiddleware) -> None:
    """Put an application's guard around what the application has by then.

    Args:
        app: The application.
        guarded: Its guard.

    Raises:
        RuntimeError: The application has started.
    """

    def around(inner: ASGIApp) -> ArxMiddleware:
        guarded.app = inner
        return guarded

    app.add_middleware(around)


def current_grant(connection: HTTPConnection) -> Grant:
    """Return the grant of a request or a WebSocket; also as a dependency of FastAPI.

    Args:
        connection: The request or the WebSocket.

    Raises:
        SettingsError: Its route is public, or not guarded.
        ArxError: The guard watches, and the call would be refused: why.  ``scope["arx.watch"]`` is then in its place.
    """
    watched = connection.scope.get(WatchedCall.KEY)
    if isinstance(watched, WatchedCall):
        raise watched.refusal()
    grant = connection.scope.get("arx")
    if not isinstance(grant, Grant):
        raise SettingsError(
            f"no grant for {connection.url.path!r:.100}: expected a route that `tools` of guard() names"
        )
    return grant
