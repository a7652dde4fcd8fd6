# SPDX-License-Identifier: Apache-2.0
"""ASGI middleware that lets pages of every origin call some routes.  CONTROL 5.5, Fetch 3.2.

It is for routes where no cookie counts: a page gets no more than any other program that reaches the server.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_Receive = Callable[[], Awaitable[_Message]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

# Without `Access-Control-Allow-Credentials`: a browser sends no cookie, and shows no answer to a request with one.
_ORIGIN: Final = (b"access-control-allow-origin", b"*")
_EXPOSED: Final = (b"access-control-expose-headers", b"WWW-Authenticate, Mcp-Session-Id, DPoP-Nonce, Retry-After")
_PREFLIGHT: Final = [
    _ORIGIN,
    (b"access-control-allow-methods", b"GET, POST, DELETE, PUT, PATCH"),
    (b"access-control-allow-headers", b"Authorization, *"),  # the star has all but that one
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]


class CrossOrigin:
    """The middleware.

    Args:
        app: The application.
        is_open: Returns whether a request is for one of the routes.
    """

    def __init__(self, app: _App, is_open: Callable[[_Scope], bool]) -> None:
        self._app, self._is_open = app, is_open

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a preflight, or add the headers to an answer."""
        names = [name for name, _ in scope["headers"]] if scope["type"] == "http" else []
        if b"origin" not in names or not self._is_open(scope):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in names:
            await send({"type": "http.response.start", "status": 204, "headers": [*_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b""})
        else:

            async def opened(message: _Message) -> None:
                if message["type"] == "http.response.start":
                    # An upstream behind the gateway may name origins of its own.
                    kept = [pair for pair in message["headers"] if not pair[0].lower().startswith(b"access-control-")]
                    message = {**message, "headers": [*kept, _ORIGIN, _EXPOSED]}
                await send(message)

            await self._app(scope, receive, opened)
