# SPDX-License-Identifier: Apache-2.0
"""Stand in for the handlers of a framework's routes and routers: decide, then run.  SPEC 8.4.

Which routes have a gate, and what a request means there, is for ``endpoints``.
"""

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from arx_verifier.enforcement.calls import Call, send_answer
from arx_verifier.enforcement.enforcement import Problem
from arx_verifier.enforcement.problems import answer
from arx_verifier.enforcement.received import RUNNING, Parameters, Sent
from arx_verifier.enforcement.routes import Scope
from arx_verifier.enforcement.streams import App, Receive, Send
from arx_verifier.errors import RequestError

CALL: Final = "arx.call"
_TAKEN: Final = "one call runs one endpoint, and another one was reached"
_BARE: Final = "this application is guarded: call it through its ArxMiddleware"


class Meanings(Protocol):
    """What calls mean at the routes of one application."""

    def meaning(self, route: Any, call: "EndpointCall", scope: Scope) -> tuple[str, dict[str, Any]]:
        """Return the tool and the arguments of a call that has reached a route."""

    def require_gates(self, router: Any) -> None:
        """Put gates in front of what was added to a router."""


class Gate:
    """Stands in for a route's handler: decides, then runs it.

    Args:
        route: The route.
        inner: Its handler.
    """

    def __init__(self, route: Any, inner: App) -> None:
        self._route, self._inner = route, inner
        self.__name__ = getattr(getattr(route, "endpoint", None), "__name__", type(route).__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; see the ASGI specification."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)  # the middleware lets no other through
            return
        call: EndpointCall | None = scope.get(CALL)
        if call is None:
            await send_answer(answer("tool_not_allowed", realm="", detail=_BARE), scope["method"], send)
            return
        try:
            if call.decision is not None:
                raise Problem("tool_not_allowed", _TAKEN)
            tool, args = call.endpoints.meaning(self._route, call, scope)
            await call.decide(tool, args, scope)
        except RequestError as error:
            await call.refuse_malformed(error, send)
        except Problem as problem:
            await call.refuse(problem, send)
        else:
            # What was judged is read, whatever a middleware made of it.
            if call.parameters is None:
                await self._inner(scope, call.replay(), send)
            else:
                await self._run_compared(call, call.parameters, scope, send)

    async def _run_compared(self, call: "EndpointCall", parameters: Parameters, scope: Scope, send: Send) -> None:
        token = RUNNING.set(call)
        try:
            call.compare(parameters.require_judged_before)
            await self._inner(scope, call.replay(), send)
        except Exception:
            if call.unjudged is None:
                raise
        finally:
            RUNNING.reset(token)
            if call.unjudged is not None:
                call.on_end(call.unjudged)
        if call.unjudged is not None:
            await call.withdraw(call.unjudged)


class EndpointCall(Call):
    """A call that is decided at its route.

    Attributes:
        endpoints: The application's.
        rest: The path as the outermost router sees it; None before.
        parameters: Those of the endpoint and its dependencies, where the framework converts them.
        sent: What they were sent as.
        unjudged: Why the endpoint was not run after all.
    """

    endpoints: Meanings
    rest: str | None = None
    parameters: Parameters | None = None
    sent: Sent
    unjudged: RequestError | None = None

    def compare(self, require: Any, *values: Any) -> None:
        """Compare what is going to run with what was judged.

        Raises:
            RequestError: It is something else.
        """
        try:
            require(self.sent, *values)
        except RequestError as error:
            self.unjudged = error
            assert self._grant is not None
            self._grant.end(error)  # no handler of the application makes an answer of it
            raise


class Dispatch:
    """Stands in for a router's own handler: has gates put in front of routes that have none yet."""

    def __init__(self, router: Any, inner: App) -> None:
        self._router, self._inner = router, inner

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        call: EndpointCall | None = scope.get(CALL)
        if call is not None:
            call.endpoints.require_gates(self._router)
            if call.rest is None:
                call.rest = _rest_of(scope)
        return self._inner(scope, receive, send)


def _rest_of(scope: Scope) -> str:
    """Return what is left of the path for an application to route, by the rule of Starlette."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root) or path[len(root) :][:1] not in ("", "/"):
        return path
    return path[len(root) :]
