# SPDX-License-Identifier: Apache-2.0
"""An MCP server behind the gateway: each message is decided on by its body, recorded, and then forwarded.  SPEC 11.

A request, a notification and an open stream each need a live token.  Answers pass byte for byte, but for lists, which
have what the token could allow.  A stream ends with its grant.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from hashlib import sha256
from typing import Any, Final

from arx_caps.gateway.base.asgi import Receive, Scope, Send, pass_on, read_body, while_connected
from arx_caps.gateway.base.bound_ids import BoundIds, owner_of
from arx_caps.gateway.base.rates import OverRateError, Rates
from arx_caps.gateway.base.sealed_calls import is_sealed, without_state
from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.spans import Spans, handed_on
from arx_caps.gateway.base.upstream_answer import FailureLog, LendingError, UpstreamAnswer, UpstreamError
from arx_caps.gateway.mcp.accepted_tools import AcceptedTools
from arx_caps.gateway.mcp.answers import AnsweredMessage, McpAnswers, effect_in
from arx_caps.gateway.mcp.asked_links import AskedLinks, opened_without_account
from arx_caps.gateway.mcp.exchange import Headers, McpExchange, ResourceCall, error_message
from arx_caps.gateway.mcp.schemas import input_schema
from arx_caps.gateway.mcp.server_requests import ServerRequests, WithheldMessageError
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.mcp.tasks import TaskIds
from arx_caps.gateway.upstream.credentials import LiveCall, live_call
from arx_caps.gateway.upstream.forwarder import Forwarder, answer_headers, read_whole
from arx_caps.http.event_stream import fields_of
from arx_caps.mcp.errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNKNOWN_SESSION,
    WireError,
    error_answer,
    refused_result,
    status_of,
)
from arx_caps.mcp.headers import HeaderValues, check_headers, encoded
from arx_caps.mcp.message import RpcMessage, read_message, result_answer, without_token, written
from arx_caps.mcp.revision import check_revision
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.bounded_body import ClientGoneError
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED, META_KEY, REFUSAL_KEY, McpMessage, Messages, budget_meta
from arx_verifier.errors import REASONS
from arx_verifier.journal.decision import UNPROVEN
from arx_verifier.journal.record import ChainFacts
from arx_verifier.refusal_text import refusal_for_model
from arx_verifier.verification.verifier import Screened, Verifier

_STREAM: Final = "text/event-stream"
_READ_UNSEEN: Final = 16_384  # bytes of a message that is kept and parsed without a token in its header
_OPENING: Final = ("initialize", "notifications/initialized")
_KEPT_ENDS: Final = 4_096  # sessions that an operator has ended
_BOUND: Final = frozenset((b"mcp-session-id", b"last-event-id"))
_ROUTING: Final = frozenset((b"mcp-method", b"mcp-name", b"mcp-session-id", b"authorization"))
# A client opens a new session at 404.  The others are answers of JSON-RPC, which a client reads at 200 (`status_of`).
_STATUS: Final = {UNKNOWN_SESSION: 404, METHOD_NOT_FOUND: 200, INVALID_PARAMS: 200}

_Whole = tuple[int, Headers, bytes]  # an answer that waits until its grant was looked at again: status, headers, body


class McpDoor:
    """The ASGI application of one upstream that speaks MCP over HTTP.

    Args:
        verifier: The verifier of the upstream's audience.
        terms: The upstream's table.
        forwarder: Sends to it.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        tools: The tools that are accepted; None to hold none.
        is_connected: As of ``AskedLinks``; None for an upstream without people's accounts.

    Attributes:
        rates: How many messages of an agent are answered.

    Raises:
        SettingsError: A network is malformed.
    """

    def __init__(
        self,
        verifier: Verifier,
        terms: UpstreamTerms,
        forwarder: Forwarder | StdioUpstream,
        trusted_proxies: tuple[str, ...] = (),
        tools: AcceptedTools | None = None,
        is_connected: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._messages = Messages(verifier, trusted_proxies=trusted_proxies, limits=tools, tasks=True)
        self._enforcement, self._terms, self._forwarder = Enforcement(verifier), terms, forwarder
        self._sessions, self._tasks = BoundIds(verifier.keys, "session"), TaskIds(verifier.keys)
        self._events = BoundIds(verifier.keys, "event")
        # What a client declared when it opened its session is in the kind of the session's id.
        self._link_sessions = BoundIds(verifier.keys, "session that opens links")
        self._requests = ServerRequests(forwarder.name, terms.server_requests, lambda: self._messages.watches)
        self._answers = McpAnswers(
            forwarder.name,
            self._messages,
            self._tasks,
            self._events,
            terms.max_answer,
            forwarder.serves_one_holder,
            self._requests,
            tools,
        )
        self.rates, self._spans = Rates(terms.rate), Spans(forwarder.name)
        self._links = AskedLinks(verifier.keys, self.rates, is_connected)
        self._failures = FailureLog()
        self._ended: dict[bytes, str] = {}  # why a session is over, by the digest of its id
        self._later: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, call: ResourceCall | None = None) -> None:
        """Answer one HTTP request.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
            call: The call of the OAuth resource before this door; None without one.
        """
        exchange, message = McpExchange(scope, send, call=call), None
        try:
            exchange.content = await self._read(exchange, receive)
            if exchange.content is None:
                await exchange.close(413, error_message(None, INTERNAL_ERROR, "the message is too long"))
                return
            if scope["method"] == "POST":
                message = read_message(exchange.content)
            if self._forwarder.serves_one_holder:
                check_revision(exchange.headers)  # a process has no headers
            if message is not None:
                check_headers(exchange.headers, message)
                with self._spans.message(message, exchange.headers):
                    await self._post(exchange, message, receive)
            elif scope["method"] in ("GET", "DELETE"):
                await self._pass(exchange, None, await self._recognized(exchange), receive)
            else:
                await exchange.whole(405, [(b"allow", b"GET, POST, DELETE")], b"")
        except WireError as error:
            await self._refuse_wire(exchange, message, error)
        except RefusedCall as problem:
            await self._refuse(exchange, message, problem)
        except OverRateError as error:
            await exchange.refuse_rate(message, error)
        except LendingError as error:
            await self._refuse_lending(exchange, message, error)
        except UpstreamError as error:
            self._failures.note(error)
            data = {"upstream": self._forwarder.name, "may_have_run": error.sent}
            status = 504 if error.timed_out else 502
            await exchange.close(status, error_message(message and message.id, INTERNAL_ERROR, str(error), data))

    async def _refuse_lending(self, exchange: McpExchange, message: RpcMessage | None, error: LendingError) -> None:
        """Answer a call that lacks a person's account, so that a model reads what to ask the person for."""
        data = {"code": error.code, "may_have_run": error.sent, **error.data}
        if message is not None and await self._links.ask(exchange, message, error, data):
            return
        # Only in a session does its model read the link, so these two are answered. Later messages are refused.
        if message is not None and message.method in _OPENING and "connect_url" in error.data:
            if message.is_request:
                result = opened_without_account(self._forwarder.name, message.params.get("protocolVersion"), str(error))
                await exchange.close(200, result_answer(message.id, result))
            else:
                await exchange.whole(202, [], b"")
            return
        if message is not None and message.method == "tools/call":
            meta = {REFUSAL_KEY: data}
            result = refused_result(str(error), is_stateless=exchange.is_stateless, meta=meta)
            await exchange.close(200, result_answer(message.id, result))
            return
        wait = [(b"retry-after", b"%d" % error.wait_s)] if error.wait_s else None
        answer = error_message(message and message.id, MCP_REFUSED, str(error), data)
        await exchange.close(200 if message is not None and message.is_request else error.status, answer, wait)

    def note_end(self, headers: HeaderValues, code: str) -> None:
        """Remember why the session of a refused request is over, if an operator has ended it.

        Args:
            headers: As ``collect_headers`` returns them.
            code: The code of the refusal.
        """
        # A stock client logs in anew, and goes on with its old session: its model is to read of the kill.
        session = headers.get(b"mcp-session-id")
        if session and code in ("revoked", "frozen"):
            self._ended[_digest(session)] = refusal_for_model("", code)
            if len(self._ended) > _KEPT_ENDS:
                del self._ended[next(iter(self._ended))]

    async def close(self) -> None:
        """Wait for what is still to be sent to the upstream."""
        await self._links.close()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _read(self, exchange: McpExchange, receive: Receive) -> bytes | None:
        """Return the body of a request; None if it is too long, or the client went.

        Raises:
            RefusedCall: It is long, and no key of this audience signed the token in its header.
        """

        def require() -> None:
            # To parse a message may take a fifth of a second for each MiB, and a stranger could keep the event loop,
            # with the rechecks of all streams, busy with that, and fill the memory with what is not parsed yet.
            if (problem := self._unproven(exchange)) is None or self._messages.watches:
                return
            if problem.code == "missing_token":
                text = f"a message of more than {_READ_UNSEEN} bytes needs its token in the header Authorization"
                problem = RefusedCall(problem.code, text)
            self._enforcement.count(problem, None)
            try:
                raise problem
            finally:
                del problem  # its traceback has this frame: a reference cycle would keep what was read of the body

        return await read_body(receive, self._terms.max_body, _READ_UNSEEN, require)

    def _unproven(self, exchange: McpExchange) -> RefusedCall | None:
        """Return why the token in the header of a request is none; None if a key of this audience signed it."""
        try:
            self._enforcement.screen(exchange.headers.get(b"authorization", b""))
        except RefusedCall as problem:
            return problem.with_traceback(None)  # a frame that holds it and is in it would keep the body
        return None

    async def _refuse_wire(self, exchange: McpExchange, message: RpcMessage | None, error: WireError) -> None:
        """Answer a message that is not forwarded, as it has no single meaning; a stranger gets a challenge."""
        problem = self._unproven(exchange)
        if (
            problem is not None
            and not self._messages.watches
            and (problem.code != "missing_token" or META_KEY.encode() not in (exchange.content or b""))
        ):
            self._enforcement.count(problem, None)
            await exchange.whole(*self._enforcement.answer(problem))
            return
        status = _STATUS.get(error.code, 400)
        if status == 200 and exchange.is_stateless:
            status = status_of(error.code)
        await exchange.close(status, error_message(message and message.id, error.code, str(error), error.data))

    async def _post(self, exchange: McpExchange, incoming: RpcMessage, receive: Receive) -> None:
        message = McpMessage(incoming.method, incoming.params, incoming.meta, incoming.id, exchange)
        if not incoming.is_request:
            screened = await self._recognized(exchange)
            if incoming.method and not self._messages.passes(incoming.method):
                raise RefusedCall("malformed_request", f"unknown notification {incoming.method!r:.60}")
        elif message.is_call:
            await self._call(exchange, message, receive)
            return
        else:
            screened = await self._recognized(exchange, message)
        if exchange.is_stateless and message.method in ("tasks/list", "tasks/result"):
            raise WireError(METHOD_NOT_FOUND, f"{message.method}: MCP 2026-07-28 has no such method")
        if message.method == "tasks/list" and not self._forwarder.serves_one_holder:
            raise WireError(METHOD_NOT_FOUND, "tasks/list: this server has one list of the tasks of all callers")
        await self._pass(exchange, message, screened, receive)

    async def _recognized(self, exchange: McpExchange, message: McpMessage | None = None) -> Screened | None:
        """Return the live token of a request whose message calls nothing; in watch mode it needs none."""
        found = await self._messages.recognize(message or McpMessage("ping", {}, {}, None, exchange))
        assert found is not None or self._messages.watches  # there is a carrier
        return found

    async def _call(self, exchange: McpExchange, message: McpMessage, receive: Receive) -> None:
        work = await self._messages.decide(message)
        facts, call = work.grant.facts, live_call(work.grant)
        exchange.owner = facts
        try:
            self.rates.charge(facts.agent, facts.subject, work.grant.tool)
            if message.method == "tools/call":
                await work.require_texts(lambda: self._schema(exchange, message, facts, call))
        except (OverRateError, RefusedCall, UpstreamError, WireError):
            await work.grant.give_back()
            await work.settle("failed")
            raise

        async def report(answer: bytes) -> None:
            if work.decision.effect is not None and (result := effect_in(answer)) is not None:
                await work.settle(result, answer)

        async def forward() -> _Whole | None:
            live = await self._links.wait(exchange, message, call, receive)
            async with self._sent(exchange, message, facts, live) as answer:
                left, decline = budget_meta(work.grant), self._decline(exchange, facts, call)
                asked = AnsweredMessage(facts, message.method, message.id, None, meta=left, answer=decline)
                whole = await self._answer(exchange, answer, asked, receive, work.check, report)
                await work.settle("unknown")  # no message was the response
                return whole

        try:
            whole = await work.run(forward)
        except RefusedCall:
            self._cancel(exchange, message, facts, call)
            raise
        except (OverRateError, UpstreamError, WireError) as error:
            if not isinstance(error, UpstreamError) or not error.sent:
                await work.grant.give_back()
            raise
        if whole is not None:
            await exchange.whole(*whole)

    async def _pass(
        self, exchange: McpExchange, message: McpMessage | None, screened: Screened | None, receive: Receive
    ) -> None:
        """Forward a message that calls nothing, or a request for the stream of a session or for its end."""
        exchange.owner = facts = UNPROVEN if screened is None else screened.proven.facts
        if message is not None and message.method == "initialize":
            exchange.opens_links = self._links.declares(exchange, message)
        self.rates.charge(facts.agent, facts.subject)
        call = None if screened is None else LiveCall(screened.token, "", facts)
        decline = self._decline(exchange, facts, call)
        asked = AnsweredMessage(facts, "", None, screened, answer=decline)
        if message is not None and message.method:
            announce = None if exchange.call is None else exchange.call.announce
            asked = AnsweredMessage(facts, message.method, message.id, screened, announce, answer=decline)

        async def forward() -> _Whole | None:
            async with self._sent(exchange, message, facts, call) as answer:
                return await self._answer(exchange, answer, asked, receive, work.check)

        work = self._messages.keep(screened)
        try:
            whole = await work.run(forward)
        except RefusedCall:
            if message is not None and message.method == "tasks/result":
                self._cancel(exchange, message, facts, call)
            raise
        if whole is not None:
            await exchange.whole(*whole)

    async def _answer(
        self,
        exchange: McpExchange,
        answer: UpstreamAnswer,
        asked: AnsweredMessage,
        receive: Receive,
        check: Callable[[], None],
        report: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> _Whole | None:
        """Pass a stream on until it ends or the client goes; return another answer.  ``check`` raises at its end."""
        headers = self._answered(exchange, answer, asked.owner)
        if answer.content_type != _STREAM:
            data = await self._answers.whole(answer.status, await self._body(answer), asked)
            check()
            if report is not None:
                await report(data)
            return answer.status, headers, data
        check()
        await exchange.begin(answer.status, headers)
        parts = _checked(self._answers.stream(answer.content.iter_any(), asked), check, report)
        with contextlib.suppress(ClientGoneError):
            async with while_connected(receive):
                await pass_on(parts, exchange.send)
        return None

    @contextlib.asynccontextmanager
    async def _sent(
        self, exchange: McpExchange, message: McpMessage | None, facts: ChainFacts, call: LiveCall | None
    ) -> AsyncIterator[UpstreamAnswer]:
        headers, body = self._headers(exchange, facts), b""
        if message is not None:
            body = await self._body_of(exchange, message, facts)
            if message.is_task and b"mcp-name" in exchange.headers:
                name = encoded(self._tasks.known(message.params.get("taskId"), facts)).encode()
                headers = [pair for pair in headers if pair[0] != b"mcp-name"] + [(b"mcp-name", name)]
        async with (
            self.rates.opened(facts.agent, facts.subject),
            self._forwarder.send(exchange.scope["method"], headers, body, owner=owner_of(facts), call=call) as answer,
        ):
            if 300 <= answer.status < 400:
                # Clients of MCP follow it, with the message and past the gateway.
                raise UpstreamError(f"upstream {self._forwarder.name} answered with a redirect", sent=True)
            if any(name.lower() == b"content-encoding" and value != b"identity" for name, value in answer.raw_headers):
                # A list in it would pass unfiltered.
                raise UpstreamError(f"upstream {self._forwarder.name} answered in an encoding unasked", sent=True)
            yield answer

    def _headers(self, exchange: McpExchange, facts: ChainFacts) -> Headers:
        """Return the headers to forward, with the upstream's ids of the session and of the last event.

        Raises:
            WireError: The session or the event is none of the caller.
        """
        # The forwarder leaves out what is of an identity, unless the call has no part in the gateway's.
        headers = [pair for pair in exchange.scope["headers"] if pair[0] not in _BOUND]
        bound = exchange.headers.get(b"mcp-session-id")
        if bound is not None:
            session = self._sessions.read(bound.decode("latin-1"), facts)
            if session is None:
                session = self._link_sessions.read(bound.decode("latin-1"), facts)
                exchange.opens_links = session is not None
            if session is None and self._messages.watches:
                session = bound.decode("latin-1")  # it was opened by a message without a token
            if session is None:
                text = self._ended.get(_digest(bound), "Open another one.")
                raise WireError(UNKNOWN_SESSION, f"expected a session that this caller has opened. {text}")
            if exchange.opens_links and exchange.scope["method"] == "GET":
                self._links.streams[bound] = exchange
            headers.append((b"mcp-session-id", session.encode("latin-1")))
        last = exchange.headers.get(b"last-event-id")
        if last:
            event = self._events.read(last.decode("utf-8", "replace"), facts)
            if event is None:
                raise WireError(INVALID_REQUEST, "header last-event-id: expected an event that this caller has got")
            headers.append((b"last-event-id", event.encode()))
        return headers

    def _answered(self, exchange: McpExchange, answer: UpstreamAnswer, facts: ChainFacts) -> Headers:
        """Return the headers to answer with; a new session is bound to the caller."""
        sessions = self._link_sessions if exchange.opens_links else self._sessions
        return [
            (name, sessions.bind(value.decode("latin-1"), facts).encode() if name == b"mcp-session-id" else value)
            for name, value in answer_headers(answer.raw_headers)
            if name not in (b"location", b"content-location")  # addresses that clients do not know
        ]

    async def _body_of(self, exchange: McpExchange, message: McpMessage, facts: ChainFacts) -> bytes:
        """Return the body to forward: without the token, and with the upstream's ids of tasks."""
        body, token = await exchange.body(), message.meta.get(META_KEY)
        body = handed_on(without_token(body, token) if isinstance(token, str) else body, message.meta)
        body = self._requests.without_capabilities(body, message.method, dict(message.params), dict(message.meta))
        if is_sealed(message.params.get("requestState"), "link"):
            body = without_state(body)
        return self._tasks.read(body, facts) if self._tasks.may_name(message) else body

    async def _body(self, answer: UpstreamAnswer) -> bytes:
        return await read_whole(answer, self._terms, self._forwarder.name)

    async def _schema(
        self, exchange: McpExchange, message: McpMessage, facts: ChainFacts, call: LiveCall | None
    ) -> dict[str, Any]:
        """Return the input schema of a tool as the upstream lists it; an empty one if it does not."""
        meta = {name: value for name, value in message.meta.items() if name not in (META_KEY, "progressToken")}
        headers = [
            pair for pair in self._headers(exchange, facts) if pair[0] not in _ROUTING or pair[0] == b"mcp-session-id"
        ]
        headers = [pair for pair in headers if not pair[0].startswith(b"mcp-param-")] + [(b"mcp-method", b"tools/list")]

        async def listed(cursor: dict[str, Any]) -> tuple[bool, bytes]:
            params = {"_meta": meta, **cursor} if meta else cursor
            asked = written({"jsonrpc": "2.0", "id": "arx-schema", "method": "tools/list", "params": params})
            async with (
                self.rates.opened(facts.agent, facts.subject),
                self._forwarder.send("POST", headers, asked, owner=owner_of(facts), call=call) as answer,
            ):
                return answer.content_type == _STREAM, await self._body(answer)

        return await input_schema(message.params["name"], listed)

    def _cancel(self, exchange: McpExchange, message: McpMessage, facts: ChainFacts, call: LiveCall | None) -> None:
        """Notify the upstream that a call or a task was ended, where closing its stream does not."""
        note: dict[str, Any] | None = None
        if message.is_task:
            task = {"taskId": self._tasks.known(message.params.get("taskId"), facts)}
            note = {"jsonrpc": "2.0", "id": "arx-cancel", "method": "tasks/cancel", "params": task}
        elif not exchange.is_stateless:
            params = {"requestId": message.id, "reason": "the caller may not go on"}
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        headers = self._headers_beside(exchange, facts)
        body = written(note) if note else b""
        self._do_later(self._forwarder.end_work(headers, body, owner_of(facts), call=call))

    def _decline(
        self, exchange: McpExchange, facts: ChainFacts, call: LiveCall | None
    ) -> Callable[[WithheldMessageError], None]:
        """Return what answers a request of the upstream that its client does not get."""

        async def send(withheld: WithheldMessageError) -> None:
            text = f"{withheld.method:.60}: the gateway passes on no such request to this client"
            answer = error_message(withheld.id, METHOD_NOT_FOUND, text)
            headers, owner = self._headers_beside(exchange, facts), owner_of(facts)
            headers = [pair for pair in headers if pair[0] not in (b"accept", b"content-type")]  # a stream has others
            headers += [(b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")]
            with contextlib.suppress(UpstreamError, WireError):
                async with self._forwarder.send("POST", headers, answer, owner=owner, call=call):
                    pass

        return lambda withheld: self._do_later(send(withheld))

    def _headers_beside(self, exchange: McpExchange, facts: ChainFacts) -> Headers:
        """Return the headers of another message to the upstream in the session of an exchange."""
        return [pair for pair in self._headers(exchange, facts) if not pair[0].startswith((b"mcp-m", b"mcp-n"))]

    def _do_later(self, work: Coroutine[Any, Any, None]) -> None:
        later = asyncio.ensure_future(work)
        self._later.add(later)
        later.add_done_callback(self._later.discard)

    async def _refuse(self, exchange: McpExchange, message: RpcMessage | None, problem: RefusedCall) -> None:
        """Answer a refusal so that a model reads it, or so that a client signs or logs in anew."""
        signs = (problem.code, _place(problem)) == ("proof_invalid", "start")
        self.note_end(exchange.headers, problem.code)
        # RFC 6750 3.1: at 200 an OAuth client goes on with an access token whose task was ended, or with none of ours.
        logs_in = exchange.call is not None and b"authorization" in exchange.headers
        logs_in = logs_in and REASONS[problem.code].status == 401
        if message is None or not message.is_request or signs or (logs_in and not exchange.has_begun):
            if exchange.has_begun:
                await exchange.end()  # the stream of a session: a message in it would answer nothing
            else:  # the agent library reads from it that it has to sign anew
                await exchange.whole(*self._enforcement.answer(problem))
            return
        lacks_approval = problem.code == "missing_discharge" and message.method == "tools/call"
        if lacks_approval and exchange.call is not None and await exchange.call.ask_approval(message):
            return
        found = self._messages.refusal(McpMessage(message.method, message.params, message.meta), problem)
        if found.for_model:
            result = refused_result(found.text, is_stateless=exchange.is_stateless, meta=found.meta)
            await exchange.close(200, result_answer(message.id, result))
            return
        status, headers, _ = self._enforcement.answer(problem)
        # A client without a token learns from the status where to get one; others read the error.
        if problem.code != "missing_token":
            status = status_of(found.error) if exchange.is_stateless else 200
        await exchange.close(status, error_answer(message.id, found.error, found.text, found.data), headers)


def _digest(session: bytes) -> bytes:
    return sha256(session).digest()


def _place(problem: RefusedCall) -> str:
    return problem.failures[0].rule if problem.failures else ""


async def _checked(
    parts: AsyncIterator[bytes], check: Callable[[], None], report: Callable[[bytes], Awaitable[None]] | None
) -> AsyncIterator[bytes]:
    # A process that was stopped, with its machine perhaps, may read what has come meanwhile before its timers run.
    async for part in parts:
        check()
        if report is not None and (data := fields_of(part).data):
            await report(data)
        yield part
    check()  # the refusal is the last event of a stream that ended meanwhile
