# SPDX-License-Identifier: Apache-2.0
"""A guarded WebSocket: one decision at its handshake, and its end after a kill.  SPEC 8.4, 11.

The handshake is a ``GET`` without a body, which the call proof covers.  The grant is rechecked while the connection is
open, as that of a running response, so that a kill ends it within the lease.
"""

from typing import Any, Final

from arx_verifier.enforcement.asgi.calls import CALL, ENDED, Call, GatedRoutes, Message, Receive, Send, http_call
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import Headers, Scope
from arx_verifier.enforcement.grants.loop_calls import LoopCalls
from arx_verifier.verification.verifier import Screened

_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1
_DENIAL: Final = "websocket.http.response"


class SocketCall(Call, eq=False):
    """One WebSocket, and the decision on its handshake; see ``Call`` and ``socket_call``.

    Attributes:
        extensions: Those of the scope.
    """

    extensions: Any = None

    is_socket = True

    async def run(self, app: Any, scope: Scope) -> None:
        """Run the application, refuse a handshake on which no gate decided, and close a connection that was ended."""
        await super().run(app, scope)
        ended = self._ended
        if ended is not None and self._answer != "closed":
            self._answer = "closed"
            await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ended.code})

    async def refuse(self, problem: RefusedCall, _: Send | None = None) -> None:
        """Refuse the handshake, or close the connection; every later message of the application is dropped."""
        self.problem = problem
        before, self._answer = self._answer, "closed"
        if before == "begun":
            await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": problem.code})
        elif before == "unsent":
            await deny(self._enforcement.answer(problem), self.extensions, self._send)

    def replay(self) -> Receive:
        """Return the server's ``receive``: a handshake has no body."""
        return self._receive

    async def _guarded_send(self, message: Message) -> None:
        if self._answer == "closed":
            return
        if self.life is None:
            await self._refuse_unjudged()
        if self.life is None:  # but in watch mode, in which the application's own answer follows
            return
        self.life.check()
        if self.life.state == "ended" or self.unjudged is not None:
            raise ConnectionAbortedError(ENDED)
        if self.life.grant is not None and message["type"] != "websocket.accept":
            self.life.grant.leave()
        await self._send(message)
        closes = message["type"] in ("websocket.close", f"{_DENIAL}.body") and not message.get("more_body", False)
        self._answer = "closed" if closes else "begun"


class SocketScope(dict[str, Any]):
    """The scope of a WebSocket, which gives a gate to a route that FastAPI copied.

    Args:
        scope: The scope.
    """

    # FastAPI makes a new route of each one in an included router, and routes to it: only here is it seen in time.

    def copy(self) -> "SocketScope":
        """Return another scope of the same WebSocket."""
        return SocketScope(self)

    def update(self, *given: Any, **more: Any) -> None:
        """Update the scope, and add a gate to the route that the framework notes."""
        super().update(*given, **more)
        route = self.get("route")
        if any("endpoint" in each for each in given) and hasattr(route, "dependant"):
            self[CALL].endpoints.gate_copy(route)


def socket_call(
    enforcement: Enforcement,
    calls: LoopCalls,
    scope: Scope,
    headers: Headers,
    screened: Screened | RefusedCall,
    receive: Receive,
    send: Send,
    peer: str | None,
    endpoints: GatedRoutes | None,
) -> SocketCall:
    """Return the call of a handshake.

    Args:
        enforcement: The decisions of the verifier.
        calls: The granted calls of the same event loop.
        scope: The ASGI ``websocket`` scope as the server made it.
        headers: ``collect_headers`` of it.
        screened: The presented token, authenticated; in watch mode also why there is none.
        receive: The server's ``receive``.
        send: The server's ``send``.
        peer: The address of the caller, or None.
        endpoints: The endpoints of an application that decides at its routes; None for another one.
    """
    http = http_call({**scope, "method": "GET"}, b"")
    line, extensions = ("GET", scope["path"], scope["query_string"]), scope.get("extensions") or {}
    gates: Any = endpoints  # None for an application without gates, which alone read it
    return SocketCall(
        enforcement, calls, http, headers, screened, b"", receive, send, peer, gates, line, extensions=extensions
    )


async def deny(answer: Answer, extensions: Any, send: Send) -> None:
    """Refuse a handshake, with the problem where the server can send one.

    Args:
        answer: The answer.
        extensions: The extensions of the scope.
        send: The ASGI ``send``.
    """
    if _DENIAL in extensions:
        await send({"type": f"{_DENIAL}.start", "status": answer.status, "headers": answer.headers})
        await send({"type": f"{_DENIAL}.body", "body": answer.body, "more_body": False})
    else:
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
