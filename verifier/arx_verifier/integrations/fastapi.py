# SPDX-License-Identifier: Apache-2.0
"""Guard an application of FastAPI at its routes, and show the token in its OpenAPI document.  SPEC 8.4.

``guard`` adds ``ArxMiddleware`` to the application, and ``current_grant`` is a dependency that returns the grant:
``grant: Grant = Depends(current_grant)``.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.integrations.starlette import add_guard, current_grant
from arx_verifier.verification.verifier import Verifier

__all__ = ["current_grant", "guard"]

SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "macaroon",
    "description": "An ARx token, signed for each call by the client's `auth`.",
}


def guard(
    app: FastAPI, verifier: Verifier, *, tools: Mapping[str, str], public: Iterable[str] = (), **options: Any
) -> None:
    """Guard an application in place, after its routes are declared and its routers included.

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
    guarded = ArxMiddleware(app, verifier=verifier, tools=tools, public=public, **options)
    add_guard(app, guarded)
    _show_scheme(app, guarded)


def _show_scheme(app: FastAPI, guarded: ArxMiddleware) -> None:
    """Add the scheme to the OpenAPI document, and a security requirement to each operation that is not public."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        document.setdefault("components", {}).setdefault("securitySchemes", {})["arx"] = SCHEME
        for path, operations in document.get("paths", {}).items():
            for method, operation in operations.items():
                if isinstance(operation, dict) and not guarded.is_public(method.upper(), path):
                    required = operation.setdefault("security", [{}])
                    operation["security"] = [{**one, "arx": []} for one in required]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
