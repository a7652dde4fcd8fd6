# SPDX-License-Identifier: Apache-2.0
"""A request without a grant: it reaches public routes, and nothing else of the application.  SPEC 8.4.

The application routes it.  The gate of a public route admits it; every other gate refuses it, and an answer that no
public route made is withheld.  A CORS preflight may also have the answer of a CORS middleware, which runs no endpoint.
"""

from types import MappingProxyType
from typing import Any

from arx_verifier.enforcement.asgi.calls import App, GatedRoutes, Message, Receive, Send, UnseenRouteError, send_answer
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.base.routes import Headers, Scope
from arx_verifier.errors import ArxError


class PublicCall:
    """One request without a grant.

    Args:
        enforcement: The decisions of the verifier.
        scope: The ASGI ``http`` scope.
        send: The server's ``send``.
        peer: The address of the caller, or None.
        refusal: The answer, unless a public route is reached.
        preflight: Whether it is a CORS preflight.

    Attributes:
        endpoints: The endpoints of an application that decides at its routes.
        rest: The path as the outermost router sees it; None before.
        admitted: The public route that was reached.
    """

    life = problem = parameters = None
    is_socket = is_unread = False
    headers: Headers = MappingProxyType({})  # a gate reads the arguments before it asks for the decision: none here
    body = b""
    endpoints: GatedRoutes
    rest: str | None = None
    admitted: Any = None

    def __init__(
        self,
        enforcement: Enforcement,
        scope: Scope,
        send: Send,
        peer: str | None,
        refusal: RefusedCall,
        *,
        preflight: bool = False,
    ) -> None:
        self._enforcement, self._method, self._send, self._peer = enforcement, scope["method"], send, peer
        self._refusal, self._preflight = refusal, preflight
        self._started = self._refused = self._withheld = False

    def admit(self, route: Any) -> None:
        """Let a public route answer.

        Args:
            route: The route.
        """
        self.admitted = route

    def spares(self, *_: Any) -> bool:
        """Return False: in watch mode a request without a grant is no public call."""
        return False

    async def run(self, app: App, scope: Scope, receive: Receive) -> None:
        """Run the application, and refuse a request that reaches no public route.

        Args:
            app: The application.
            scope: The request as the application gets it.
            receive: The server's ``receive``.
        """
        try:
            await app(scope, receive, self._guarded_send)
        except UnseenRouteError:
            pass  # refused below, or already in the place of the framework's own answer to this error
        except Exception as error:
            # Some frameworks raise an HTTP error for a request without a route.
            if self._started or self.admitted is not None or not hasattr(error, "status_code"):
                raise
        if not self._started and self.admitted is None:
            await self.refuse(self._refusal)

    def decide(self, *_: Any) -> None:
        """Refuse a route that is not public.

        Raises:
            RefusedCall: Always.
        """
        raise self._refusal

    async def refuse(self, problem: RefusedCall, send: Send | None = None) -> None:
        """Answer with a problem, and count it; every later answer of the application is dropped.

        Args:
            problem: The refusal.
            send: The ``send`` of an application in between; None for the server's.
        """
        if not self._refused:
            self._enforcement.count(problem, self._peer)
        self._refused, self._started = True, True
        await send_answer(self._enforcement.answer(problem), self._method, send or self._send)

    async def pass_or_refuse(
        self, error: ArxError | RefusedCall, _route: Any, _scope: Scope, _run: Any, send: Send | None = None
    ) -> None:
        """Refuse a request without a single meaning as any other without a token; none goes on in watch mode."""
        await self.refuse(error if isinstance(error, RefusedCall) else self._refusal, send)

    def end_unseen(self) -> None:
        """End a request that reached routes which the application did not show when it was guarded.

        Raises:
            UnseenRouteError: Always.
        """
        self.admitted = None
        raise UnseenRouteError("a route without a gate was reached")

    async def _guarded_send(self, message: Message) -> None:
        if self._withheld:
            return
        if self.admitted is None and not self._refused:
            if not self._preflight or not _is_of_cors(message):
                self._withheld = True
                await self.refuse(self._refusal)
                return
            self.admitted = "preflight"
        self._started = True
        await self._send(message)


def is_preflight(scope: Scope, headers: Headers) -> bool:
    """Return whether a request is a CORS preflight, as browsers send it without credentials."""
    return scope["method"] == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def _is_of_cors(message: Message) -> bool:
    return any(name.lower().startswith(b"access-control-") for name, _ in message.get("headers", ()))
