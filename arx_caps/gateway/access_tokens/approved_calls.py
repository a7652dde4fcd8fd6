# SPDX-License-Identifier: Apache-2.0
"""Calls of MCP with an access token that need an approval: asked for, waited for, and made once.  CONTROL 5.12.

The gateway asks the mint, and the discharge comes from the mint to the gateway.  The client keeps a sealed text: a task
id where it declares tasks, else a ``requestState`` (MCP 2026-07-28), else it calls again.  What a gateway keeps are the
running calls of tasks and their results.
"""

import asyncio
import functools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.tasks.approval import FIRST_PAUSE_S, LONGEST_PAUSE_S, SLOWER
from arx_caps.gateway.access_tokens.sealed_calls import PREFIX, Kind, SealedCalls, WaitingCall, digest_of, is_sealed
from arx_caps.gateway.base.asgi import Message, Receive, Scope, Send, replay_body, until_gone
from arx_caps.gateway.base.handle_decisions import HandleDecisions
from arx_caps.gateway.base.rates import OverRateError
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.exchange import Headers, McpExchange, ResourceCall, error_message
from arx_caps.http.event_stream import fields_of, split_events
from arx_caps.mcp.mcp_wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    STATELESS,
    Incoming,
    WireError,
    check_headers,
    encoded,
    object_of,
    read_incoming,
    status_of,
    written,
)
from arx_caps.service.access_tokens import HandleApproval, TakenApproval, ask_approval, take_approval
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.enforcement import MCP_REFUSED, collect_headers, http_call
from arx_verifier.errors import ArxError, GrantError, TokenError
from arx_verifier.names import matches_tool
from arx_verifier.refusal_text import error_for_model, refusal_for_model
from arx_verifier.token import Macaroon, ThirdPartyCaveat, call_proof, discharge
from arx_verifier.verification import Verifier

TASKS: Final = "io.modelcontextprotocol/tasks"  # the extension of MCP 2026-07-28
_HAS_TASKS: Final = "2025-11-25"  # the revision that has them in the protocol; the next one has the extension
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
_RELATED: Final = "io.modelcontextprotocol/related-task"
HOLD_MS: Final = 20_000  # stock clients repeat a request ten times at most, without a long pause
HOLD_FIRST_MS: Final = 5_000  # many programs wait no longer without a sign of life
MAX_HELD: Final = 8  # of one client: each costs a request to the mint every few seconds
MAX_RUNS: Final = 32  # of one client, running or with a result that is kept: one must not fill the gateway
MAX_ALL_RUNS: Final = 1_024  # of one upstream: each holds a connection, or a result in memory
KEPT_MS: Final = 600_000  # after the last moment at which the call could have been begun: a client may poll late
_POLL_MS: Final = 2_000
_ID: Final = "arx-approved"

Object = dict[str, Any]


class TokenCaller(NamedTuple):
    """A client with an access token.

    Attributes:
        token: The access token, a secret.
        macaroon: The task's token.
        principal: The same for all access tokens of the client in one session.
        agent: The agent's path, whose rate its messages count against.
        scope: The scope of the access token.
        issued_at: When the access token was issued, ms since the Unix epoch, in whole seconds.
        is_proven: Whether its requests have a proof.
    """

    token: str
    macaroon: Macaroon
    principal: str
    agent: str
    scope: str
    issued_at: int
    is_proven: bool = False

    @property
    def person(self) -> tuple[str, str] | None:
        """Issuer and subject of the person that it acts for, or None."""
        # The mint has given the token; an operator's token has none.
        subject: tuple[str, str] | None = getattr(self.macaroon.unverified_identifier, "subject", None)
        return subject

    def __repr__(self) -> str:
        return "<TokenCaller>"


class _Run:
    """The call of a task, while it runs and afterwards."""

    def __init__(self, principal: str, call: WaitingCall) -> None:
        self.principal, self.until = principal, call.until + KEPT_MS
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.answer: Object | None = None  # the message of the upstream, or of the door
        self.ended_at = 0


class ApprovedCalls:
    """The calls of one upstream that wait for an approval.

    Args:
        door: Decides on a call and makes it.
        verifier: The verifier of the upstream's audience.
        mint: The mint.
        own: The service's own key.
        decisions: Records the calls with their assurance.
        challenge: Returns the challenge for scopes, and for a client with proofs (RFC 9449).
        longest: The longest answer of a task's call, bytes.
    """

    def __init__(
        self,
        door: McpDoor,
        verifier: Verifier,
        mint: MintClient,
        own: ServiceIdentity,
        decisions: HandleDecisions,
        *,
        challenge: Callable[[str, bool], Headers],
        longest: int,
    ) -> None:
        self._door, self._audience, self._mint, self._key = door, verifier.audience, mint, own.key
        self._sealed, self._decisions, self._challenge, self._longest = (
            SealedCalls(verifier.keys),
            decisions,
            challenge,
            longest,
        )
        self._held: Counter[str] = Counter()
        self._runs: dict[str, _Run] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """End the running calls of tasks."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def about(self, message: Incoming) -> Callable[["_Asked"], Awaitable[None]] | None:
        """Return what answers a message about a call that waits; None for another message.

        Args:
            message: The message.
        """
        if message.method.startswith("tasks/") and is_sealed(message.params.get("taskId")):
            return self._about_task
        if message.method == "tools/call" and is_sealed(message.params.get("requestState")):
            return self._again
        return None

    def caveat_of(self, macaroon: Macaroon, message: Incoming) -> ThirdPartyCaveat | None:
        """Return the caveat of a token that demands an approval of a call.

        Args:
            macaroon: The token.
            message: The call.
        """
        tool = f"{self._audience}.{message.params.get('name')}"
        for caveat in discharge.third_party_caveats(macaroon):
            if caveat.tools is not None and any(matches_tool(each, tool) for each in caveat.tools):
                return caveat
        return None

    def announce(self, macaroon: Macaroon, stated: str, method: str, result: Object) -> bool:
        """Add to a result that calls may become tasks; return whether it was added.

        Args:
            macaroon: The token of the client.
            stated: The revision in the header of the request.
            method: The method of the message that is answered.
            result: Its result.
        """
        wanted = [caveat.tools for caveat in discharge.third_party_caveats(macaroon) if caveat.tools is not None]
        if not wanted:
            return False
        capabilities = result.get("capabilities")
        if method == "server/discover" and isinstance(capabilities, dict):
            _member(_member(capabilities, "extensions"), TASKS)
            return True
        revision = str(result.get("protocolVersion"))
        if method == "initialize" and isinstance(capabilities, dict) and _HAS_TASKS <= revision < STATELESS:
            tasks = _member(capabilities, "tasks")
            _member(tasks, "cancel")
            _member(_member(_member(tasks, "requests"), "tools"), "call")
            return True
        if method != "tools/list" or not _HAS_TASKS <= stated < STATELESS:
            return False
        patterns = [pattern for tools in wanted for pattern in tools]
        for tool in result["tools"]:
            needs = any(matches_tool(pattern, f"{self._audience}.{tool.get('name')}") for pattern in patterns)
            # Also where the server forbids them: the gateway answers the task.
            if needs and _member(tool, "execution").get("taskSupport") != "required":
                tool["execution"]["taskSupport"] = "optional"
        return True

    async def answered(self, asked: "_Asked", work: Callable[["_Asked"], Awaitable[None]]) -> None:
        """Answer a message by what is done for it, or by the error.

        Args:
            asked: The message.
            work: What to do.
        """
        tool = _tool_of(asked.message)
        try:
            # Each makes the gateway ask the mint, and the door counts what it forwards alone.
            self._door.rates.charge(asked.caller.agent, asked.caller.person)
            await work(asked)
        except OverRateError as error:
            await asked.exchange.refuse_rate(asked.message, error)
        except WireError as error:
            await asked.error(error.code, str(error))
        except TokenError as error:
            await asked.refuse(refusal_for_model(tool, error.code))
        except GrantError as error:
            await asked.refuse(error_for_model(tool, error))
        except ArxError:
            answer = error_message(asked.message.id, INTERNAL_ERROR, "the mint does not answer now: repeat the request")
            await asked.exchange.close(503, answer, [(b"retry-after", b"1")])

    async def ask(self, asked: "_Asked", caveat: ThirdPartyCaveat) -> None:
        """Ask operators for the approval of a call, and answer it.

        Args:
            asked: The call.
            caveat: The caveat that demands the approval.

        Raises:
            GrantError: An operator denied the call.
            ArxError: The mint does not answer.
        """
        message, text = asked.message, caveat.encode().decode()
        name, args = str(message.params["name"]), message.params.get("arguments") or {}
        tool = f"{self._audience}.{name}"
        found: HandleApproval = await asyncio.to_thread(
            ask_approval, self._mint, self._key, asked.caller.token, text, tool, args
        )
        if found.state == "denied":
            await self._take(asked, found.id)  # fails, with the operator's reason
            raise GrantError(f"{found.id} was denied by an operator", code="approval_denied")
        call = WaitingCall(found.id, name, digest_of(name, args), found.asked_at, found.expires_at)
        if _takes_tasks(asked):
            await asked.result(_created(self._seal(asked, call, "task"), call, asked.is_stateless))
            return
        if asked.is_stateless and found.state == "waiting":
            await self._input_required(asked, self._seal(asked, call, "state"))
            return
        has_room = self._held[asked.caller.principal] < MAX_HELD
        taken = await self._wait(asked, found.id, HOLD_FIRST_MS / 1000)
        if taken is not None and taken.discharge is None:
            text = (
                f"{name} waits: an operator has to approve this call with exactly these arguments, and was asked "
                f"({found.id}). Make the same call again once it is approved."
            )
            # One 403 for an approval: at a second one, after the login that it asks for, stock clients end a session.
            if asked.caller.issued_at > found.asked_at or not has_room:
                await asked.refuse(text)
                return
            # All that is needed: clients ask for these alone, and the mint leaves out what is no template.
            scope = f"{asked.caller.scope} approval:{found.id}"
            await asked.step_up(text, found.id, self._challenge(scope, asked.caller.is_proven))
        elif taken is not None:
            await self._make(asked, taken, asked.body)

    async def _again(self, asked: "_Asked") -> None:
        """Make a call that comes again with its state, if it was approved.

        Raises:
            WireError: The state is none that this principal got for this call, or was used.
            ArxError: As ``take_approval``.
        """
        message, text = asked.message, str(asked.message.params["requestState"])
        call = self._sealed.open(text, "state", asked.caller.principal)
        name, args = message.params.get("name"), message.params.get("arguments")
        if call is None or call.until <= _now_ms() or "inputResponses" in message.params or type(name) is not str:
            raise WireError(INVALID_PARAMS, "requestState: expected one that this caller got, and that is not over")
        if not isinstance(args, dict | None) or not _is_same(call, name, args or {}):
            raise WireError(INVALID_PARAMS, "requestState: expected the tool and the arguments that it was given for")
        taken = await self._wait(asked, call.approval, HOLD_MS / 1000)
        if taken is None:
            return
        if taken.taken:
            raise WireError(INVALID_PARAMS, "requestState: the call was made with it")
        if taken.discharge is None:
            await self._input_required(asked, text)
            return
        found = json.loads(asked.body)
        del found["params"]["requestState"]  # the upstream's would be another one
        await self._make(asked, taken, written(found))

    async def _wait(self, asked: "_Asked", approval: str, hold_s: float) -> TakenApproval | None:
        """Return an approval once it is taken, or after some time; None if the client has gone.

        Raises:
            OverRateError: The agent, or the person that it acts for, has too many requests open.
            ArxError: As ``take_approval``.
        """
        principal = asked.caller.principal
        held = hold_s if self._held[principal] < MAX_HELD else 0.0
        pause, until = FIRST_PAUSE_S, time.monotonic() + held
        gone = asyncio.ensure_future(until_gone(asked.receive))
        self._held[principal] += 1
        try:
            # Also counted as open: a person may have many sessions, each with calls that wait here.
            async with self._door.rates.opened(asked.caller.agent, asked.caller.person):
                # A call whose client has gone is not made: its answer would be lost.
                while not gone.done():
                    taken = await self._take(asked, approval)
                    if taken.taken or taken.discharge is not None or time.monotonic() + pause > until:
                        return taken
                    await asyncio.wait((gone,), timeout=pause)
                    pause = min(pause * SLOWER, LONGEST_PAUSE_S)
            return None
        finally:
            gone.cancel()
            self._held[principal] -= 1
            if not self._held[principal]:
                del self._held[principal]

    async def _take(self, asked: "_Asked", approval: str, *, withdraw: bool = False) -> TakenApproval:
        return await asyncio.to_thread(
            take_approval, self._mint, self._key, asked.caller.token, approval, withdraw=withdraw
        )

    async def _make(self, asked: "_Asked", taken: TakenApproval, body: bytes) -> None:
        scope = self._signed(asked, asked.scope, taken, body)
        await self._door(scope, replay_body(body, asked.receive), asked.exchange.send, ResourceCall())

    def _signed(self, asked: "_Asked", scope: Scope, taken: TakenApproval, body: bytes) -> Scope:
        """Return the scope of a call with its credential: the task's token, the call, and the discharge."""
        assert taken.bundle is not None
        assert taken.discharge is not None
        macaroon = taken.bundle.tokens[self._audience]
        self._decisions.know(macaroon.unverified_identifier.id, bound=asked.caller.is_proven)
        signer = call_proof.CallSigner(macaroon, self._audience)
        signed = signer.sign(call_proof.http_fields(http_call(scope, body)), _now_ms())
        # Bound here and not by the mint, which need not know how a delegated token is signed.
        text = discharge.join(signed, [discharge.bind(taken.discharge, macaroon)])
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"authorization", b"content-length")]
        headers += [(b"authorization", b"Bearer " + text.encode()), (b"content-length", b"%d" % len(body))]
        return {**scope, "headers": headers}

    async def _about_task(self, asked: "_Asked") -> None:
        """Answer a message about a task.

        Raises:
            WireError: The task is none of the client's, or there is no such method.
            ArxError: The mint does not answer.
        """
        message, text = asked.message, str(asked.message.params["taskId"])
        call = self._sealed.open(text, "task", asked.caller.principal)
        if call is None or call.until + KEPT_MS <= _now_ms():
            raise WireError(INVALID_PARAMS, "expected a task that this caller has begun, and that is not over")
        known = ("get", "update", "cancel") if asked.is_stateless else ("get", "result", "cancel")
        method = message.method.removeprefix("tasks/")
        if method not in known:
            raise WireError(METHOD_NOT_FOUND, f"unknown method {message.method!r:.60}")
        if method == "update":  # nothing was asked for
            await asked.result({"resultType": "complete"})
            return
        if method == "cancel":
            await self._cancel(asked, call, text)
            return
        status = await self._status(asked, call)
        if method == "result":
            gone = asyncio.ensure_future(until_gone(asked.receive))
            try:
                while status.is_open and not gone.done():
                    run = self._runs.get(call.approval)
                    waits = {gone} if run is None or run.task is None else {gone, run.task}
                    await asyncio.wait(waits, timeout=_POLL_MS / 1000, return_when=asyncio.FIRST_COMPLETED)
                    status = await self._status(asked, call)
            finally:
                gone.cancel()
            if not status.is_open:
                await asked.payload(status, text)
            return
        await asked.result(_shown(text, call, status, asked.is_stateless))

    async def _status(self, asked: "_Asked", call: WaitingCall) -> "_Status":
        """Return how a task stands; begin its call if it was approved.

        Raises:
            ArxError: The mint does not answer.
        """
        # One question at a time for each call: of two at once, one takes what the call is made with, and the other
        # would find it taken, as if another gateway had it.
        turn = self._turns.setdefault(call.approval, asyncio.Lock())
        async with turn:
            run = self._runs.get(call.approval)
            try:
                # Also for a call that was made: the mint says whether the access token is alive.
                taken = (
                    None if run is None and not self._has_room(asked.caller) else await self._take(asked, call.approval)
                )
            except TokenError as error:
                self._end(call.approval)
                return _failed("failed", refusal_for_model(call.tool, error.code), error.code)
            except GrantError as error:
                if error.code == "not_found":
                    raise WireError(INVALID_PARAMS, "expected a task that this caller has begun") from None
                if run is None:
                    status = "cancelled" if error.code == "approval_withdrawn" else "failed"
                    return _failed(status, error_for_model(call.tool, error), error.code)
                taken = None
            if taken is not None and taken.discharge is not None:
                run = self._runs[call.approval] = _Run(asked.caller.principal, call)
                run.task = asyncio.ensure_future(self._run(run, asked, taken, call))
        if run is not None and run.is_cancelled:
            return _failed("cancelled", "The client has cancelled the call: it may have run.", "cancelled")
        if run is not None and run.answer is not None:
            return _Status("completed", "The call was made.", run.answer, run.ended_at)
        if run is not None:
            return _Status("working", "The call was approved, and runs.", None, _now_ms())
        if taken is not None and taken.taken:
            text = f"{call.tool} was made, and its result is kept by another gateway, or no longer."
            return _failed("failed", text, "already_used")
        return _Status("working", f"An operator has to approve the call: {call.approval}.", None, call.asked_at)

    async def _run(self, run: _Run, asked: "_Asked", taken: TakenApproval, call: WaitingCall) -> None:
        """Make the call of a task and keep its answer."""
        body = written(_request_of(taken.about, self._audience, asked))
        headers = [
            pair for pair in asked.scope["headers"] if not pair[0].startswith((b"mcp-m", b"mcp-n", b"mcp-param-"))
        ]
        if asked.is_stateless:
            headers += [(b"mcp-method", b"tools/call"), (b"mcp-name", encoded(call.tool).encode())]
        answer = _Answer(self._longest)
        found: Object | None = None
        try:
            scope = self._signed(asked, {**asked.scope, "headers": headers}, taken, body)
            # Without the call of the resource: no client waits for a 401, and the task keeps why it was ended.
            await self._door(scope, replay_body(body, _forever), answer.send)
            found = await answer.message()
        finally:
            # Also after a mistake of the gateway: a task without an end would be asked for again and again.
            text = f"{call.tool} was begun, and its answer is lost: it may have run."
            run.answer = found or _error(text, "answer_lost")
            run.ended_at = _now_ms()

    async def _cancel(self, asked: "_Asked", call: WaitingCall, text: str) -> None:
        if call.approval in self._runs:
            await self._take(asked, call.approval)  # the access token is alive
            self._runs[call.approval].is_cancelled = True
            self._end(call.approval)
        else:
            await self._take(asked, call.approval, withdraw=True)
        status = _Status("cancelled", "The client has cancelled the call.", None, _now_ms())
        shown = {"resultType": "complete"} if asked.is_stateless else _shown(text, call, status, False)
        await asked.result(shown)

    def _end(self, approval: str) -> None:
        run = self._runs.get(approval)
        if run is not None and run.task is not None:
            run.task.cancel()

    def _has_room(self, caller: TokenCaller) -> bool:
        """Return whether another call of a task can be begun; forget those that are over."""
        now = _now_ms()
        for name in [name for name, run in self._runs.items() if run.until <= now and run.answer is not None]:
            del self._runs[name]
        own = [name for name, run in self._runs.items() if run.principal == caller.principal]
        if len(own) >= MAX_RUNS:
            over = [name for name in own if self._runs[name].answer is not None]
            if not over:
                return False
            del self._runs[over[0]]  # its client has had the time to read it
        return len(self._runs) < MAX_ALL_RUNS

    def _seal(self, asked: "_Asked", call: WaitingCall, kind: Kind) -> str:
        kid = asked.caller.macaroon.unverified_identifier.kid
        return self._sealed.seal(call, kind, asked.caller.principal, kid)

    async def _input_required(self, asked: "_Asked", state: str) -> None:
        await asked.result({"resultType": "input_required", "requestState": state})


class _Asked(NamedTuple):
    """One message of a client, and the way to answer it."""

    caller: TokenCaller
    scope: Scope
    body: bytes
    receive: Receive
    exchange: McpExchange
    message: Incoming

    @property
    def is_stateless(self) -> bool:
        return self.exchange.is_stateless

    async def result(self, result: Object) -> None:
        answer = written({"jsonrpc": "2.0", "id": self.message.id, "result": result})
        await self.exchange.close(200, answer)

    async def error(self, code: int, text: str) -> None:
        status = status_of(code) if self.is_stateless else 200
        await self.exchange.close(status, error_message(self.message.id, code, text))

    async def step_up(self, text: str, approval: str, challenge: Headers) -> None:
        """Answer so that a client asks for a scope."""
        # An error: of an answer with 403, a stock client that asks for none shows no result.
        answer = error_message(self.message.id, MCP_REFUSED, text, {"code": "missing_discharge", "approval": approval})
        await self.exchange.close(403, answer, challenge)

    async def refuse(self, text: str) -> None:
        """Answer so that a model reads it."""
        result: Object = {"content": [{"type": "text", "text": text}], "isError": True}
        if self.is_stateless:
            result["resultType"] = "complete"
        answer = written({"jsonrpc": "2.0", "id": self.message.id, "result": result})
        await self.exchange.close(200, answer)

    async def payload(self, status: "_Status", task: str) -> None:
        """Answer what ``tasks/result`` of MCP 2025-11-25 asks for."""
        answer = dict(status.answer or {}) | {"id": self.message.id, "jsonrpc": "2.0"}
        if isinstance(answer.get("result"), dict):
            meta = answer["result"].get("_meta")
            related = {_RELATED: {"taskId": task}}
            answer["result"] = answer["result"] | {"_meta": (meta if isinstance(meta, dict) else {}) | related}
        await self.exchange.close(200, written(answer))


class ApprovableCall(ResourceCall):
    """A request with an access token, whose call may need an approval.

    Args:
        approved: The calls that wait.
        caller: The client.
        scope: As ASGI has it, with the headers that the client sent.
        body: The body.
        receive: As ASGI has it, after the body.
        send: As ASGI has it.
    """

    def __init__(
        self, approved: ApprovedCalls, caller: TokenCaller, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        self._approved, self._caller, self._scope = approved, caller, scope
        self._body, self._receive, self._send = body, receive, send

    async def answer(self) -> bool:
        """Answer a message about a call that waits; return False for another message."""
        if PREFIX.encode() not in self._body or self._scope["method"] != "POST":
            return False
        try:
            message = read_incoming(self._body)
            check_headers(collect_headers(self._scope["headers"]), message)
        except (WireError, ArxError):
            return False  # the door refuses it
        work = self._approved.about(message)
        if work is not None:
            await self._approved.answered(self._asked(message), work)
        return work is not None

    async def ask_approval(self, message: Incoming) -> bool:
        """Ask for the approval of a call, and answer it; see ``ResourceCall``."""
        caveat = self._approved.caveat_of(self._caller.macaroon, message)
        # A server that asks for input of its own has a state of its own, which this one would replace.
        if caveat is None or {"requestState", "inputResponses"} & message.params.keys():
            return False
        await self._approved.answered(self._asked(message), functools.partial(self._approved.ask, caveat=caveat))
        return True

    def announce(self, method: str, result: Object) -> bool:
        """Add to a result that calls may become tasks; see ``ResourceCall``."""
        headers = collect_headers(self._scope["headers"])
        stated = headers.get(b"mcp-protocol-version", b"").decode("latin-1").strip(" \t")
        return self._approved.announce(self._caller.macaroon, stated, method, result)

    def _asked(self, message: Incoming) -> _Asked:
        scope = {**self._scope, "headers": [*self._scope["headers"]]}
        exchange = McpExchange(scope, self._send, self._body)
        return _Asked(self._caller, scope, self._body, self._receive, exchange, message)


class _Status(NamedTuple):
    """How a task stands, and the message with which its call has ended."""

    name: str
    text: str
    answer: Object | None
    at: int

    @property
    def is_open(self) -> bool:
        return self.name == "working"


class _Answer:
    """What the door sends of a task's call."""

    def __init__(self, longest: int) -> None:
        self._longest, self._parts, self._size, self._streams = longest, list[bytes](), 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self._streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
            return
        self._size += len(message.get("body", b""))
        if self._size <= self._longest:
            self._parts.append(message.get("body", b""))

    async def message(self) -> Object | None:
        """Return the message that answers the call; None if there is none, or it is too long."""
        if self._size > self._longest:
            return None
        if not self._streams:
            found = object_of(b"".join(self._parts))
            return found if found is not None and ("result" in found or "error" in found) else None

        async def chunks() -> AsyncIterator[bytes]:
            for part in self._parts:
                yield part

        async for event in split_events(chunks(), self._longest):
            found = object_of(fields_of(event).data)
            if found is not None and found.get("id") == _ID and "method" not in found:
                return found
        return None


def _request_of(about: HandleApproval, audience: str, asked: _Asked) -> Object:
    """Return the call of a task: the arguments are those that operators saw."""
    params: Object = {"name": about.tool.removeprefix(f"{audience}."), "arguments": about.args}
    if asked.is_stateless:
        meta = dict(asked.message.meta)
        found = meta.get(_CAPABILITIES)
        capabilities: Object = dict(found) if isinstance(found, dict) else {}
        # The upstream must not answer with a task of its own: no client would ask for that one.
        capabilities["extensions"] = {
            name: value for name, value in (capabilities.get("extensions") or {}).items() if name != TASKS
        }
        meta[_CAPABILITIES] = capabilities
        meta.pop("progressToken", None)
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": _ID, "method": "tools/call", "params": params}


def _takes_tasks(asked: _Asked) -> bool:
    """Return whether a client declares that this call may become a task."""
    # A server demands them of some tools, and a poll does not repeat them: such a client repeats its call.
    if any(name.startswith(b"mcp-param-") for name in asked.exchange.headers):
        return False
    if not asked.is_stateless:
        return isinstance(asked.message.params.get("task"), dict)
    found = asked.message.meta.get(_CAPABILITIES)
    extensions = found.get("extensions") if isinstance(found, dict) else None
    return isinstance(extensions, dict) and TASKS in extensions


def _created(task: str, call: WaitingCall, is_stateless: bool) -> Object:
    status = _Status("working", f"An operator has to approve the call: {call.approval}.", None, call.asked_at)
    shown = _shown(task, call, status, is_stateless)
    return shown | {"resultType": "task"} if is_stateless else {"task": shown}


def _shown(task: str, call: WaitingCall, status: _Status, is_stateless: bool) -> Object:
    """Return a task as its revision has it."""
    name, answer = status.name, status.answer
    result = answer.get("result") if answer is not None else None
    failed = result is None or (not is_stateless and isinstance(result, dict) and result.get("isError") is True)
    if name == "completed" and failed:
        name = "failed"
    about: Object = {"taskId": task, "status": name, "statusMessage": status.text}
    about |= {"createdAt": _time(call.asked_at), "lastUpdatedAt": _time(status.at)}
    ttl = call.until + KEPT_MS - call.asked_at
    if not is_stateless:
        return about | {"ttl": ttl, "pollInterval": _POLL_MS}
    about |= {"ttlMs": ttl, "pollIntervalMs": _POLL_MS, "resultType": "complete"}
    if name == "completed":
        about["result"] = result
    if name == "failed":
        about["error"] = (answer or {}).get("error") or {"code": INTERNAL_ERROR, "message": status.text}
    return about


def _failed(name: str, text: str, code: str) -> _Status:
    return _Status(name, text, _error(text, code), _now_ms())


def _error(text: str, code: str) -> Object:
    return {"error": {"code": INTERNAL_ERROR, "message": text, "data": {"code": code}}}


def _member(value: Object, name: str) -> Object:
    """Return a member that is an object; make it if there is none."""
    found = value.get(name)
    if not isinstance(found, dict):
        found = value[name] = {}
    return found


def _is_same(call: WaitingCall, name: str, args: Mapping[str, Any]) -> bool:
    try:
        return digest_of(name, args) == call.digest
    except ArxError:
        return False


def _tool_of(message: Incoming) -> str:
    name = message.params.get("name")
    return name if message.method == "tools/call" and isinstance(name, str) else ""


async def _forever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
