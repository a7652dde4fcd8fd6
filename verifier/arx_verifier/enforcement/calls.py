# SPDX-License-Identifier: Apache-2.0
"""One HTTP request between the middleware and what it is decided for.  SPEC 8, 11.

The middleware makes a ``Call`` of the bytes that arrived.  It is decided once: by the middleware itself where ``tools``
says what a request means, or by the route that Starlette or FastAPI matched.  Nothing of an answer leaves before.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from arx_verifier.enforcement.enforcement import Enforcement, Problem, now_ms, read_traceparent
from arx_verifier.enforcement.problems import Answer
from arx_verifier.enforcement.routes import Headers, Key, Scope, join_arguments, read_body, read_query
from arx_verifier.enforcement.streams import App, Message, Receive, Send, Watch, Young
from arx_verifier.errors import ArxError, refusal
from arx_verifier.journal.decision import Decision
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.verification.verifier import Screened

_log = logging.getLogger(__name__)
_EMPTY: Final[tuple[bytes, ...]] = ()


class Call(Watch):
    """One request, and the decision on it once there is one.

    Args:
        enforcement: Decides.
        young: The calls that begin in the same event loop.
        scope: The ASGI ``http`` scope as the server made it.
        headers: ``collect_headers`` of it.
        screened: What was presented, proven.
        body: The whole body.
        receive: What comes behind it.
        peer: Where the request came from.

    Attributes:
        body: The whole body: what was signed, what is judged and what the endpoint reads.
        headers: The headers that are read.
        decision: The allow that the call runs under.
        problem: Why it was refused.
    """

    decision: Decision | None = None
    problem: Problem | None = None
    query: Mapping[str, Any]
    members: Mapping[str, Any]
    _withheld = False

    def __init__(
        self,
        enforcement: Enforcement,
        young: Young,
        scope: Scope,
        headers: Headers,
        screened: Screened,
        body: bytes,
        receive: Receive,
        peer: str | None,
    ) -> None:
        super().__init__(young)
        self._receive = receive
        self._enforcement, self._screened, self._peer = enforcement, screened, peer
        self.headers, self.body = headers, body
        raw = (scope.get("raw_path") or scope["path"].encode("utf-8", "replace")).partition(b"?")[0]
        query = scope["query_string"]
        self._http = HttpCall(scope["method"], raw + b"?" + query if query else raw, hashlib.sha256(body).digest())

    def read_arguments(self, key: Key, scope: Scope, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call of this route; ``query`` and ``members`` are those of query and body alone.

        Raises:
            RequestError: The request has no single meaning.
        """
        raw = scope["query_string"]
        self.query = read_query(raw) if raw else {}
        self.members = read_body(self.headers, self.body)
        return join_arguments(key, scope["method"], parameters, self.query, self.members, bool(self.body))

    async def decide(self, tool: str, args: Mapping[str, Any], scope: Scope) -> None:
        """Decide on the call, and look after its grant from now on, which is then ``scope["arx"]``.

        Args:
            tool: The tool that runs next; empty for none, which is refused.
            args: Its arguments.
            scope: The scope of what runs next.

        Raises:
            Problem: It is refused.
        """
        traceparent = read_traceparent(self.headers.get(b"traceparent", _EMPTY))
        request = AccessRequest(tool, args, now_ms(), self._peer, self._http, traceparent=traceparent)
        decision = await self._enforcement.verifier.decide_async(self._screened.token, request, screened=self._screened)
        self._enforcement.require(decision, request)
        self.decision = decision
        scope["arx"] = decision.grant
        self.begin(decision.grant)

    async def serve(self, app: App, scope: Scope, send: Send) -> None:
        """Run the application, which decides at its routes or has been decided on, and refuse what it does not judge.

        Args:
            app: The application.
            scope: The request as the application gets it.
            send: Where the answer goes.
        """
        try:
            ended = await self.run(app, scope, self.replay(), send)
        except Exception as error:
            # What no route takes some frameworks raise, for whoever is around them to answer.
            if self.started or self.decision is not None or not hasattr(error, "status_code"):
                raise
            ended = None
        if self.started:
            return
        if ended is not None:
            assert self.decision is not None
            await self.refuse(Problem(ended.code, failures=ended.failures, decision=self.decision.id), send)
        elif self.problem is not None:
            await self.refuse(self.problem, send)
        elif self.decision is None:
            await self._refuse_unjudged()

    async def refuse(self, problem: Problem, send: Send) -> None:
        """Answer with a problem, and let nothing else through."""
        self.problem = problem
        await send_answer(self._enforcement.answer(problem), self._http.method, send)

    async def refuse_malformed(self, error: ArxError, send: Send) -> None:
        """Count a request that has no single meaning, and answer it."""
        problem = Problem("malformed_request", str(error))
        self._enforcement.count(problem, self._peer)
        await self.refuse(problem, send)

    async def withdraw(self, error: ArxError) -> None:
        """Refuse an allowed call whose endpoint was not run, as it would have got what was not judged."""
        assert self.decision is not None
        if not self.started:
            self.started = True
            await self.refuse(Problem(error.code, str(error), decision=self.decision.id), self._send)

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
            self.on_end(error)
        raise error

    def on_end(self, reason: ArxError) -> None:
        """Record that the call is ended."""
        verifier, decision = self._enforcement.verifier, self.decision
        assert decision is not None
        if verifier.decisions.waits:  # a disk is not waited for in the loop
            asyncio.get_running_loop().run_in_executor(None, verifier.record_end, decision, reason)
        else:
            verifier.record_end(decision, reason)

    async def before_grant(self, message: Message) -> None:
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
            await self.refuse(problem, self._send)
            self.started = True

    def replay(self) -> Receive:
        """Hand out the body that is judged, once; then whatever comes, which can only be the end of the connection."""
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await self._receive()
            given = True
            return {"type": "http.request", "body": self.body, "more_body": False}

        return again


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
