# SPDX-License-Identifier: Apache-2.0
"""One guarded HTTP request: its decision, and its end after a kill.  SPEC 8, 11.

The middleware makes a ``Call`` of the received request.  It is decided once: by the middleware itself if ``tools`` maps
the request, or by the gate of the route that Starlette or FastAPI matched.  No part of an answer is sent before.

A response may last for hours.  Its grant is rechecked while it runs (``loop_calls``), so that the bound of a kill holds
for open streams too.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import (
    BOX_HEADER,
    Enforcement,
    RefusedCall,
    read_box,
    read_traceparent,
    refused_end,
)
from arx_verifier.enforcement.base.problems import BUDGET_HEADER, Answer
from arx_verifier.enforcement.base.routes import Headers, Scope
from arx_verifier.enforcement.grants.call_effect import CallEffect
from arx_verifier.enforcement.grants.loop_calls import LoopCall, LoopCalls, TaskCut
from arx_verifier.errors import ArxError, RequestError, refusal
from arx_verifier.journal.decision import Decision
from arx_verifier.request import UNSEEN_BODY, AccessRequest, HttpCall
from arx_verifier.token.wire import sha256_of
from arx_verifier.verification.verifier import Screened

if TYPE_CHECKING:
    from arx_verifier.enforcement.base.parameters import Parameters

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
ReadHead: TypeAlias = Callable[[Receive], Awaitable[tuple[bytes, bool]]]
"""Returns what it has read of a body, and whether more follows."""

CALL: Final = "arx.call"
UNSEEN: Final = "arx.unseen"  # set in the scope of a request whose body may be there, and is not seen
HEAD: Final = "arx.head"  # set in the scope of a request whose body is streamed: the `ReadHead` of what is judged of it
_SERVER_ERROR: Final = 500
# An ASGI server raises a ``ConnectionAbortedError`` for a client that disconnected: applications handle it and stop.
ENDED: Final = "the call was ended: its token was revoked, frozen or expired"

_http_call: Final[Callable[[tuple[Any, ...]], HttpCall]] = functools.partial(tuple.__new__, HttpCall)  # runs no Python
_log = logging.getLogger(__name__)
_UNSEEN: Final = (
    "a call is refused: its application has routes that it did not show when it was guarded; "
    "put ArxMiddleware around the Starlette or FastAPI application itself, after its routes are made"
)


class GatedRoutes(Protocol):
    """The gated routes of an application, for the gates that a call reaches; ``endpoints.Endpoints`` has them."""

    def meaning(self, route: Any, call: "Call", scope: Scope) -> tuple[str, dict[str, Any]]:
        """Return the tool and the arguments of a call that has reached a route."""

    def require_gates(self, router: Any) -> None:
        """Add gates to the routes of a router that have none."""

    def gate_copy(self, route: Any) -> None:
        """Add a gate to a route of WebSockets that the framework copied."""


AnswerState: TypeAlias = Literal["unsent", "begun", "closed"]
"""How much of an answer was sent: nothing; a part, or all of it; what the caller gets, so that all else is dropped."""


class Call(msgspec.Struct, eq=False):
    """One request, and its decision once it is made.

    Attributes:
        enforcement: The decisions of the verifier.
        calls: The granted calls of the same event loop.
        http: The request, as its proof covers it; see ``http_call``.
        headers: ``collect_headers`` of it.
        screened: The presented token, authenticated; in watch mode also why there is none.
        body: The whole body: the signed bytes, on which the decision is made and which the endpoint reads; of a body
            that is streamed, what was read of it.
        receive: The server's ``receive``, after the body.
        send: The server's ``send``.
        peer: The address of the caller, or None.
        line: The method, the path and the query as they were sent.
        life: The granted call, once it was decided.
        problem: The refusal.
        endpoints: The endpoints of an application that decides at its routes; None for another one, which has no gates.
        rest: The path as the outermost router sees it; None before.
        parameters: The parameters of the endpoint and its dependencies, if the framework converts them.
        sent: The values of the parameters as they were sent.
        unjudged: Why the endpoint was not run although the call was allowed.
        admitted: The public route that was reached; it needs no decision.
        is_unread: Whether it goes on in watch mode although its body is too long to be read for a decision.
        has_more: Of a body that is streamed, whether more follows ``body``; None for a body that was read whole.
    """

    # A struct, because one is made for each request: it needs no ``__init__`` in Python.

    _enforcement: Enforcement
    _calls: LoopCalls
    _http: HttpCall
    headers: Headers
    _screened: Screened | RefusedCall
    body: bytes
    _receive: Receive
    _send: Send
    _peer: str | None
    endpoints: GatedRoutes
    _line: tuple[str, str, bytes]
    life: LoopCall | None = None
    problem: RefusedCall | None = None
    rest: str | None = None
    parameters: "Parameters | None" = None
    sent: Any = None
    unjudged: RequestError | None = None
    admitted: Any = None
    is_unread: bool = False
    has_more: bool | None = None
    _answer: AnswerState = "unsent"
    _cut: TaskCut = msgspec.field(default_factory=TaskCut)  # of the task that handles the request

    is_socket = False

    def __repr__(self) -> str:
        return "<Call>"

    def decide(self, tool: str, args: Mapping[str, Any], scope: Scope) -> Awaitable[None] | None:
        """Decide on the call, set ``scope["arx"]`` to the grant, and recheck the grant from now on.

        Args:
            tool: The tool; empty for none, which is refused.
            args: Its arguments.
            scope: The scope of the application that runs next.

        Returns:
            None, or what to await if the decision must wait.

        Raises:
            RefusedCall: The call is refused.
            RequestError: A middleware of the application has changed the request.
        """
        # Such as one that reads X-HTTP-Method-Override, which no proof covers: another request was signed.
        if tool and (scope.get("method", "GET"), scope["path"], scope["query_string"]) != self._line:
            raise RequestError("the method, the path or the query is not the one that was sent")
        trace = self.headers.get(b"traceparent")
        traceparent = read_traceparent(trace) if trace is not None else None
        http = self._http if self.has_more is None else None  # SPEC 8.7
        box = read_box(self.headers.get(BOX_HEADER))
        request = AccessRequest(tool, args, now_ms(), self._peer, http, None, traceparent, box)
        screened = self._screened
        if isinstance(screened, RefusedCall):
            self._allow(self._enforcement.refuse(screened, request, self._header), request, scope)
            return None
        decision = self._enforcement.verifier.try_decide(screened.token, request, screened=screened)
        if decision is None:
            return self._decide_later(request, scope)
        self._allow(decision, request, scope)
        return None

    def _header(self, name: str) -> bytes | None:
        return self.headers.get(name.encode("latin-1"))

    async def _decide_later(self, request: AccessRequest, scope: Scope) -> None:
        self._allow(await self._enforcement.decide_async(self._screened, request, self._header), request, scope)

    def _allow(self, decision: Decision, request: AccessRequest, scope: Scope) -> None:
        passed = self._enforcement.require(decision, request)
        scope[passed.KEY] = passed
        self.life = LoopCall(self._calls, passed.look_again, decision, passed)
        if decision.effect is not None:  # asked here: each request comes this way, and few have one
            self.life.effect = CallEffect(self._enforcement.verifier, decision)
        self.life.begin(self._cut)

    async def run(self, app: App, scope: Scope) -> None:
        """Run the application, and refuse a request on which no gate decided.

        A response that is ended after its start stays incomplete: the server then closes the connection.

        Args:
            app: The application.
            scope: The request as the application gets it.
        """
        try:
            await app(scope, self.replay(), self._guarded_send)
            if self.is_socket and self.life is not None and self._ended is None:
                await self.life.settle("done")
        except asyncio.CancelledError:
            if not self._close():
                raise
        except UnseenRouteError:
            pass  # refused below, or already in the place of the framework's own answer to this error
        except Exception as error:
            if self.life is not None:
                # It may have failed because its own recheck of the grant raised.
                if isinstance(error, ArxError):
                    self.life.check(anew=True)
                else:
                    self.life.look()
                # Before the answer of the application's own handler of errors, which may be outside of this guard.
                is_sure = self._ended is None and self._answer == "unsent"  # else an answer has broken off
                await self.life.settle("failed" if is_sure else "unknown")
            self._close()
            if self._ended is not None:
                # The call was cancelled, or its send or its recheck raised.  The application's own error has no reader.
                _log.debug("what an ended call raised", exc_info=True)
            elif self._answer != "unsent" or self._is_decided or not self._is_refusable(error):
                raise
            # Some frameworks raise an HTTP error for a request without a route.  It is refused below like any other.
        finally:
            self._close()
        if self._answer == "unsent":
            await self._answer_instead()

    def _is_refusable(self, error: Exception) -> bool:
        return hasattr(error, "status_code") and self._enforcement.watch is None

    async def _answer_instead(self) -> None:
        """Answer a request that the application did not answer: ended, refused, or without a decision."""
        if self.life is not None and self.life.reason is not None:
            await self.refuse(refused_end(self.life.reason, self.life.decision))
        elif self.problem is not None:
            await self.refuse(self.problem)
        elif not self._is_decided:
            await self._refuse_unjudged()

    @property
    def _is_decided(self) -> bool:
        return self.life is not None or self.admitted is not None

    def admit(self, route: Any) -> None:
        """Let a public route answer, without a decision.

        Args:
            route: The route.
        """
        self.admitted = route

    async def pass_or_refuse(
        self,
        error: RequestError | RefusedCall,
        route: Any,
        scope: Scope,
        run: Callable[[], Awaitable[None]],
        send: Send | None = None,
    ) -> None:
        """Refuse a request on which no decision can be made, unless it goes on in watch mode.

        Args:
            error: Why none can be made.
            route: The route, or anything else that answers.
            scope: The scope of the application that runs next.
            run: Runs what answers.
            send: As in ``refuse``.
        """
        problem = RefusedCall.of(error)
        try:
            if not problem.decision and self.spares(problem, route):
                # Without a tool, which no token allows: what holds in watch mode is decided on its token all the same.
                if self.life is None and (wait := self.decide("", {}, scope)) is not None:
                    await wait
                await run()
                return
        except RefusedCall as held:
            problem = held
        else:
            if problem is not error:
                self._enforcement.count(problem, self._peer)
        await self.refuse(problem, send)

    def spares(self, problem: RefusedCall, route: Any) -> bool:
        """Return whether a refusal of a request lets it go on in watch mode; then a route may answer it.

        Args:
            problem: The refusal.
            route: The route, or anything else that answers.
        """
        # One that was refused or ended runs nothing more, whatever reaches a route again.
        if self.problem is not None or self._ended is not None or not self._enforcement.spares(problem, self._peer):
            return False
        self.admitted = route
        return True

    async def refuse(self, problem: RefusedCall, send: Send | None = None) -> None:
        """Answer with a problem; every later answer of the application is dropped.

        Args:
            problem: The refusal.
            send: The ``send`` of an application in between; None for the server's.
        """
        self.problem = problem
        if send is None:
            self._answer = "closed"
        await send_answer(self._enforcement.answer(problem), self._http.method, send or self._send)

    async def withdraw(self, error: ArxError) -> None:
        """Refuse an allowed call whose endpoint did not run: its arguments are not those of the decision.

        Args:
            error: The difference.
        """
        assert self.life is not None
        if self._answer == "unsent":
            await self.refuse(refused_end(error, self.life.decision))

    def compare(self, require: Any, *values: Any) -> None:
        """Compare the arguments of the next function with those of the decision.

        Args:
            require: ``Parameters.require_judged`` or ``require_judged_before``.
            values: Its further arguments.

        Raises:
            RequestError: They differ.
        """
        try:
            require(self.sent, *values)
        except RequestError as error:
            if self._enforcement.spares(RefusedCall("malformed_request"), self._peer):
                return
            self.unjudged = error  # so that no error handler of the application can answer
            raise

    def end_unseen(self) -> None:
        """End an allowed call that reached routes which the application did not show when it was guarded.

        Raises:
            AccessError: Always, but in watch mode.
        """
        error = refusal("tool_not_allowed", ())
        assert self.life is not None
        if self._enforcement.spares(RefusedCall(error.code), self._peer):
            return
        if self.life.end(error):
            _log.error(_UNSEEN)
        raise error

    def replay(self) -> Receive:
        """Return a ``receive`` with the body of the decision, and then the server's messages.

        After the body, the server can only send a disconnect; after a part of it, the rest.
        """
        if self.is_unread:
            return self._receive
        return functools.partial(
            self._again, [{"type": "http.request", "body": self.body, "more_body": bool(self.has_more)}]
        )

    async def _again(self, unread: list[Message]) -> Message:
        return unread.pop() if unread else await self._receive()

    @property
    def _ended(self) -> ArxError | None:
        return None if self.life is None else self.life.reason

    def _close(self) -> bool:
        """Stop the rechecks; return whether the end of the call alone has cancelled the task."""
        if self.life is not None:
            self.life.close()
        return self._cut.close()

    async def _guarded_send(self, message: Message) -> None:
        life = self.life
        if life is None:
            await self._before_grant(message)
            return
        kind = message["type"]
        is_head = kind == "http.response.start"
        life.check(anew=is_head and message.get("status", 200) >= _SERVER_ERROR)
        if life.state == "ended" or self.unjudged is not None:
            raise ConnectionAbortedError(ENDED)
        grant = life.grant
        assert grant is not None
        grant.leave()
        if is_head and grant.has_budget:
            left = grant.remaining_text().encode("ascii")
            message = {**message, "headers": [*message.get("headers", ()), (BUDGET_HEADER, left)]}
        if life.effect is not None and _is_whole(life.effect, message, self._http.method):
            await life.settle()
        await self._send(message)
        self._answer = "begun"
        if kind == "http.response.body" and not message.get("more_body"):
            life.answered()

    async def _before_grant(self, message: Message) -> None:
        """Send a refusal; drop every other answer before a grant, such as a framework's 404 or a middleware's."""
        if self._answer == "closed":
            return
        if self.problem is not None or self.admitted is not None:
            await self._send(message)
            self._answer = "begun"
        else:
            await self._refuse_unjudged()
            if self.life is not None:
                await self._guarded_send(message)  # in watch mode

    async def _refuse_unjudged(self) -> None:
        self._answer = "closed"  # what the application sends while this waits is dropped
        try:
            if (wait := self.decide("", {}, {})) is not None:
                await wait
            self._answer = "unsent"
        except RefusedCall as problem:
            self._answer = "unsent"
            await self.refuse(problem)


class Replayed:
    """The server's ``receive`` of a request in watch mode, whose messages can be read once more from the first on.

    Args:
        receive: The server's.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive, self._unread = receive, list[Message]()
        self._kept: list[Message] | None = []

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._unread:
            return self._unread.pop()
        message = await self._receive()
        if self._kept is not None:
            self._kept.append(message)
        return message

    def rewind(self) -> None:
        """Return the messages so far again, and keep no further ones."""
        self._unread, self._kept = (self._kept or [])[::-1], None


class RoutedScope(dict[str, Any]):
    """A scope in which a framework notes the matched endpoint before it runs.

    Args:
        scope: The scope.
        reached: Called before an endpoint is noted; it raises where none may run.
    """

    # The application may have routes that it did not show when it was guarded, or make them at its first call: the
    # table could map the request to another tool than the endpoint's.

    def __init__(self, scope: Scope, reached: Callable[[], None]) -> None:
        super().__init__(scope)
        self._reached = reached

    def copy(self) -> "RoutedScope":
        """Return another scope of the same call."""
        return RoutedScope(self, self._reached)

    def update(self, *given: Any, **more: Any) -> None:
        """Update the scope; call ``reached`` if a framework notes an endpoint."""
        if any("endpoint" in each for each in given):
            self._reached()
        super().update(*given, **more)


def require_gate(call: Any) -> None:
    """Refuse a call that reached an endpoint before any guarded router had it.

    Args:
        call: A ``Call`` or a ``PublicCall``.

    Raises:
        UnseenRouteError: It did, and is not in watch mode.
    """
    if call.rest is None:
        _log.error(_UNSEEN)
        if not call.spares(RefusedCall("tool_not_allowed"), call):
            raise UnseenRouteError("a route without a gate was reached")


class UnseenRouteError(Exception):
    """A call reached a route that has no gate; its endpoint does not run."""


def _is_whole(effect: CallEffect, message: Message, method: str) -> bool:
    """Report a message of an answer; return whether it is the last, before which the effect is recorded.  SPEC 12.8."""
    if message["type"] == "http.response.start":
        lengths = [value for name, value in message.get("headers", ()) if name.lower() == b"content-length"]
        return effect.begin(message["status"], method, *lengths[:1])
    if message["type"] == "http.response.body":
        return effect.take(message.get("body", b"")) or not message.get("more_body")
    if message["type"] not in _UNSEEN_BODIES:
        return False
    effect.is_seen = False
    return True


_UNSEEN_BODIES: Final = frozenset(("http.response.pathsend", "http.response.zerocopysend"))


def http_call(scope: Scope, body: bytes) -> HttpCall:
    """Return a request as its proof covers it.

    Args:
        scope: The ASGI ``http`` scope as the server made it.
        body: The whole body.
    """
    raw = (scope.get("raw_path") or scope["path"].encode("utf-8", "replace")).partition(b"?")[0]
    query = scope["query_string"]
    digest = UNSEEN_BODY if UNSEEN in scope else sha256_of(body, b"")
    return _http_call((scope["method"], raw + b"?" + query if query else raw, digest))


async def send_answer(answer: Answer, method: str, send: Send) -> None:
    """Send a whole answer; one to ``HEAD`` has no body.

    Args:
        answer: The answer.
        method: The request's method.
        send: The ASGI ``send``.
    """
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    body = b"" if method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body, "more_body": False})
