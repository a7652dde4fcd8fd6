# SPDX-License-Identifier: Apache-2.0
"""One HTTP request, what is decided on it, and the end of what its grant allowed.  SPEC 8, 11.

The middleware makes a ``Call`` of the bytes that arrived.  It is decided once: by the middleware itself where ``tools``
says what a request means, or by the route that Starlette or FastAPI matched.  Nothing of an answer leaves before.

A decision is made once, and a response may last for hours.  While one lasts its grant is looked at again: after a fixed
time, and never later than the lease on the kill epoch ends, so that the bound of a kill holds for open streams too.  An
application that answers within the first look pays for no task, and shares its timer with all that began with it.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from arx_verifier.enforcement.enforcement import Enforcement, Problem, now_ms, read_traceparent
from arx_verifier.enforcement.problems import Answer
from arx_verifier.enforcement.routes import Headers, Scope
from arx_verifier.errors import ArxError, RequestError, UnavailableError, refusal
from arx_verifier.journal import Decision
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.revocation import Epochs
from arx_verifier.token import sha256_of
from arx_verifier.verification import Grant, Screened

if TYPE_CHECKING:
    from arx_verifier.enforcement.endpoints import Endpoints
    from arx_verifier.enforcement.received import Parameters, Sent

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CALL: Final = "arx.call"
RECHECK_MS: Final = 250  # a quarter of the default lease: what a kill adds to its way here, at most

_log = logging.getLogger(__name__)


class Young:
    """The calls of one event loop that were not looked at yet, with one timer for all of them.

    Nearly every call is over before it goes off.

    Args:
        loop: The event loop.
        epochs: The view of the kill epoch.
        recheck_ms: The longest time between two looks, ms.

    Attributes:
        calls: Those whose grant is looked at when the timer goes off, which is no later than if each had its own.
        due: When that is, by the monotonic clock.
        planned: Whether the timer runs.
    """

    __slots__ = ("_epochs", "calls", "due", "loop", "planned", "recheck_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, epochs: Epochs, recheck_ms: int) -> None:
        self.loop, self._epochs, self.recheck_s = loop, epochs, recheck_ms / 1000
        self.calls: set[Call] = set()
        self.planned, self.due = False, 0.0

    def plan(self) -> None:
        """Start the timer, with the first call that begins after it went off."""
        # A lease that is granted meanwhile ends later than the one that the timer was set by.
        pause = self.pause()
        self.planned, self.due = True, time.monotonic() + pause
        self.loop.call_later(pause, self._look)

    def pause(self) -> float:
        """Return the time to the next look, s."""
        # No later than the lease ends: a look that waited out its interval would let a stream outlive the bound.
        return min(self.recheck_s, self._epochs.lease_left_ns() / 1e9)

    def _look(self) -> None:
        calls, self.calls, self.planned = self.calls, set(), False
        for number, call in enumerate(calls):
            # From here on each has a timer of its own; they are spread over half of their time.
            self.loop.call_soon(call.look, 1 - number / len(calls) / 2)


class Call:
    """One request, and the decision on it once there is one.

    Args:
        enforcement: Decides.
        young: The calls that begin in the same event loop.
        scope: The ASGI ``http`` scope as the server made it.
        headers: ``collect_headers`` of it.
        screened: What was presented, proven.
        body: The whole body.
        receive: What comes behind it.
        send: Where the answer goes.
        peer: Where the request came from.

    Attributes:
        body: The whole body: what was signed, what is judged and what the endpoint reads.
        headers: The headers that are read.
        decision: The allow that the call runs under.
        problem: Why it was refused.
        started: Whether anything of the response has left.
        endpoints: Those of an application that decides at its routes.
        rest: The path as the outermost router sees it; None before.
        parameters: Those of the endpoint and its dependencies, where the framework converts them.
        sent: What they were sent as.
        unjudged: Why the endpoint was not run after all.
    """

    decision: Decision | None = None
    problem: Problem | None = None
    endpoints: "Endpoints"
    rest: str | None = None
    parameters: "Parameters | None" = None
    sent: "Sent"
    unjudged: RequestError | None = None
    _grant: Grant | None = None
    _timer: asyncio.TimerHandle | None = None
    _withheld = _open = _over = _cut = started = False

    def __init__(
        self,
        enforcement: Enforcement,
        young: Young,
        scope: Scope,
        headers: Headers,
        screened: Screened,
        body: bytes,
        receive: Receive,
        send: Send,
        peer: str | None,
    ) -> None:
        self._enforcement, self._young, self._screened, self._peer = enforcement, young, screened, peer
        self.headers, self.body, self._receive, self._send = headers, body, receive, send
        raw = (scope.get("raw_path") or scope["path"].encode("utf-8", "replace")).partition(b"?")[0]
        query = scope["query_string"]
        self._http = HttpCall(scope["method"], raw + b"?" + query if query else raw, sha256_of(body, b""))

    async def decide(self, tool: str, args: Mapping[str, Any], scope: Scope) -> None:
        """Decide on the call, and look after its grant from now on, which is then ``scope["arx"]``.

        Args:
            tool: The tool that runs next; empty for none, which is refused.
            args: Its arguments.
            scope: The scope of what runs next.

        Raises:
            Problem: It is refused.
        """
        trace = self.headers.get(b"traceparent")
        traceparent = read_traceparent(trace) if trace is not None else None
        request = AccessRequest(tool, args, now_ms(), self._peer, self._http, None, traceparent)
        enforcement, screened = self._enforcement, self._screened
        decision = await enforcement.decide_async(screened.token, request, screened)
        scope["arx"] = self._grant = enforcement.require(decision, request)
        self.decision = decision
        young = self._young
        if not young.planned:
            young.plan()
        young.calls.add(self)
        self._due = young.due

    async def run(self, app: App, scope: Scope) -> None:
        """Run the application, which decides at its routes or has been decided on, and refuse what it does not judge.

        An answer that is ended after it has begun is left unfinished: a server then closes the connection.

        Args:
            app: The application.
            scope: The request as the application gets it.
        """
        task = asyncio.current_task(self._young.loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        try:
            await app(scope, self.replay(), self._guarded_send)
        except asyncio.CancelledError:
            if not self._close():
                raise
        except Exception as error:
            self._close()
            if self._ended is not None:
                # Cancelled, or told in the middle of a send that nobody listens: how it took that is of no interest.
                _log.debug("what an ended call raised", exc_info=True)
            elif self.started or self.decision is not None or not hasattr(error, "status_code"):
                raise
            # What no route takes some frameworks raise, for whoever is around them to answer.
        finally:
            self._close()
        if not self.started:
            await self._answer_instead()

    async def _answer_instead(self) -> None:
        """Refuse what the application has not answered."""
        ended = self._ended
        if ended is not None:
            assert self.decision is not None
            await self.refuse(Problem(ended.code, failures=ended.failures, decision=self.decision.id))
        elif self.problem is not None:
            await self.refuse(self.problem)
        elif self.decision is None:
            await self._refuse_unjudged()

    async def refuse(self, problem: Problem, send: Send | None = None) -> None:
        """Answer with a problem, and let nothing else through."""
        self.problem = problem
        await send_answer(self._enforcement.answer(problem), self._http.method, send or self._send)

    async def refuse_malformed(self, error: ArxError, send: Send | None = None) -> None:
        """Count a request that has no single meaning, and answer it."""
        problem = Problem("malformed_request", str(error))
        self._enforcement.count(problem, self._peer)
        await self.refuse(problem, send)

    async def withdraw(self, error: ArxError) -> None:
        """Refuse an allowed call whose endpoint was not run, as it would have got what was not judged."""
        assert self.decision is not None
        if not self.started:
            self.started = True
            await self.refuse(Problem(error.code, str(error), decision=self.decision.id))

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

    def end_unseen(self) -> None:
        """End an allowed call that reached routes which were not seen when the application was guarded.

        Raises:
            AccessError: Always.
        """
        error = refusal("tool_not_allowed", ())
        assert self._grant is not None
        if self._grant.ended is None:
            _log.error(
                "a call is refused: its application has routes that it did not show when it was guarded; "
                "put ArxMiddleware around the Starlette or FastAPI application itself, after its routes are made"
            )
            self._grant.end(error)
            self.record_end(error)
        raise error

    def record_end(self, reason: ArxError) -> None:
        """Record that the call is ended."""
        verifier, decision = self._enforcement.verifier, self.decision
        assert decision is not None
        if verifier.decisions.waits:  # a disk is not waited for in the loop
            self._young.loop.run_in_executor(None, verifier.record_end, decision, reason)
        else:
            verifier.record_end(decision, reason)

    def replay(self) -> Receive:
        """Hand out the body that is judged, once; then whatever comes, which can only be the end of the connection."""
        return functools.partial(self._again, [{"type": "http.request", "body": self.body, "more_body": False}])

    async def _again(self, unread: list[Message]) -> Message:
        return unread.pop() if unread else await self._receive()

    @property
    def _ended(self) -> ArxError | None:
        return None if self._grant is None else self._grant.ended

    def _close(self) -> bool:
        """Be done, once; say whether the task was cancelled from here and by nobody else, as ``asyncio.timeout``."""
        if self._over:
            return False
        self._over = True
        if self._timer is None:
            self._young.calls.discard(self)
        else:
            self._timer.cancel()
        return self._cut and self._task.uncancel() <= self._cancelling

    def look(self, part: float = 1.0) -> None:
        """Look whether the grant still stands, and end the call if it does not.

        Args:
            part: After which part of the longest time to look again.
        """
        if self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._young.calls.discard(self)
        assert self._grant is not None
        refused, loop = self._grant.look_again(), self._young.loop
        if refused is None:
            pause = self._young.pause() * part
            self._due = time.monotonic() + pause
            self._timer = loop.call_later(pause, self.look)
        elif isinstance(refused, UnavailableError) and not self._open:
            # Nothing leaves, so nothing is looked at but what would: to stop a tool half-way because the store is slow
            # does harm and protects nobody.  What is killed is stopped at once.
            self._due = 0.0
            self._timer = loop.call_later(self._young.recheck_s, self.look)
        else:
            if self._grant.ended is None:
                self.record_end(refused)
            self._grant.end(refused)
            loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        if not self._over:
            self._cut = True
            self._task.cancel()

    async def _guarded_send(self, message: Message) -> None:
        kind, grant = message["type"], self._grant
        if grant is None:
            await self._before_grant(message)
            return
        if kind == "http.response.start":
            self._open = True
        if time.monotonic() >= self._due and grant.ended is None:
            self.look()
        if grant.ended is not None:
            # What ASGI has a server raise for a client that is gone: applications know it, and stop.
            raise ConnectionAbortedError("the call was ended: its token no longer stands")
        await self._send(message)
        self.started = True
        if kind == "http.response.body" and not message.get("more_body", False):
            self._open = False

    async def _before_grant(self, message: Message) -> None:
        """Let a refusal pass.  Any other answer is withheld: a framework's 404, or a middleware's own."""
        if self._withheld:
            return
        if self.problem is not None:
            await self._send(message)
            self.started = True
        else:
            await self._refuse_unjudged()

    async def _refuse_unjudged(self) -> None:
        self._withheld = True
        try:
            await self.decide("", {}, {})
        except Problem as problem:
            await self.refuse(problem)
            self.started = True


class Judged(dict[str, Any]):
    """The scope of a call that a table has judged, for an application that shows no routes: it may not have any either.

    A framework notes in the scope which endpoint it took, before that runs.

    Args:
        scope: The scope.
        call: The call.
    """

    def __init__(self, scope: Scope, call: Call) -> None:
        super().__init__(scope)
        self._call = call

    def copy(self) -> "Judged":
        """Return another scope of the same call."""
        return Judged(self, self._call)

    def update(self, *given: Any, **more: Any) -> None:
        """Take what is noted; end the call where that is an endpoint.

        Raises:
            AccessError: It is.
        """
        if any("endpoint" in each for each in given):
            self._call.end_unseen()
        super().update(*given, **more)


async def send_answer(told: Answer, method: str, send: Send) -> None:
    """Send a whole answer; one to ``HEAD`` has no body."""
    await send({"type": "http.response.start", "status": told.status, "headers": told.headers})
    body = b"" if method == "HEAD" else told.body
    await send({"type": "http.response.body", "body": body, "more_body": False})
