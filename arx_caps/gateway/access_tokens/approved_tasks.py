# SPDX-License-Identifier: Apache-2.0
"""Calls that wait for an approval as tasks of MCP: of revision 2025-11-25, and of the extension of 2026-07-28.

The client keeps a sealed text, the task id.  What a gateway keeps are the running calls and their results.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from arx_caps.gateway.access_tokens.token_calls import AskedMessage, Object, TokenCaller, TokenCalls
from arx_caps.gateway.base.asgi import Message, until_gone
from arx_caps.gateway.base.sealed_calls import WaitingCall
from arx_caps.http.event_stream import fields_of, split_events
from arx_caps.mcp.errors import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, WireError
from arx_caps.mcp.headers import encoded
from arx_caps.mcp.message import object_in, object_of, written
from arx_caps.mcp.revision import HAS_TASKS, STATELESS
from arx_caps.service.access_tokens import HandleApproval, TakenApproval
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, TokenError
from arx_verifier.names import matches_tool
from arx_verifier.refusal_text import error_for_model, refusal_for_model
from arx_verifier.token import discharge
from arx_verifier.token.macaroon import Macaroon

TASKS: Final = "io.modelcontextprotocol/tasks"  # the extension of MCP 2026-07-28
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
_RELATED: Final = "io.modelcontextprotocol/related-task"
MAX_RUNS: Final = 32  # of one client, running or with a result that is kept: one must not fill the gateway
MAX_ALL_RUNS: Final = 1_024  # of one upstream: each holds a connection, or a result in memory
KEPT_MS: Final = 600_000  # after the last moment at which the call could have been begun: a client may poll late
_POLL_MS: Final = 2_000
_ID: Final = "arx-approved"


class _Run:
    """The call of a task, while it runs and afterwards."""

    def __init__(self, principal: str, call: WaitingCall) -> None:
        self.principal, self.until = principal, call.until + KEPT_MS
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.answer: Object | None = None  # the message of the upstream, or of the door
        self.ended_at = 0


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


class ApprovedTasks:
    """The tasks of one upstream.

    Args:
        calls: Asks the mint, and makes the calls.
        longest: The longest answer of a call, bytes.
    """

    def __init__(self, calls: TokenCalls, longest: int) -> None:
        self._calls, self._longest = calls, longest
        self._runs: dict[str, _Run] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """End the running calls."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, asked: AskedMessage, call: WaitingCall) -> None:
        """Answer a call with the task that it becomes.

        Args:
            asked: The call as the client sent it.
            call: The call that waits.
        """
        await asked.result(_created(self._calls.seal(asked.caller, call, "task"), call, asked.is_stateless))

    async def answer(self, asked: AskedMessage) -> None:
        """Answer a message about a task.

        Args:
            asked: The message.

        Raises:
            WireError: The task is none of the client's, or there is no such method.
            ArxError: The mint does not answer.
        """
        message, text = asked.message, str(asked.message.params["taskId"])
        call = self._calls.opened(asked.caller, text)
        if call is None or call.until + KEPT_MS <= now_ms():
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
                await asked.exchange.close(200, _payload(asked, status, text))
            return
        await asked.result(_shown(text, call, status, asked.is_stateless))

    async def _status(self, asked: AskedMessage, call: WaitingCall) -> _Status:
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
                    None
                    if run is None and not self._has_room(asked.caller)
                    else await self._calls.take(asked.caller, call.approval)
                )
            except TokenError as error:
                self._end(run)
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
            return _Status("working", "The call was approved, and runs.", None, now_ms())
        if taken is not None and taken.taken:
            text = f"{call.tool} was made, and its result is kept by another gateway, or no longer."
            return _failed("failed", text, "already_used")
        return _Status("working", f"An operator has to approve the call: {call.approval}.", None, call.asked_at)

    async def _run(self, run: _Run, asked: AskedMessage, taken: TakenApproval, call: WaitingCall) -> None:
        """Make the call of a task and keep its answer."""
        body = written(_request_of(taken.about, self._calls.audience, asked))
        headers = [
            pair for pair in asked.scope["headers"] if not pair[0].startswith((b"mcp-m", b"mcp-n", b"mcp-param-"))
        ]
        if asked.is_stateless:
            headers += [(b"mcp-method", b"tools/call"), (b"mcp-name", encoded(call.tool).encode())]
        answer = _Answer(self._longest)
        found: Object | None = None
        try:
            scope = {**asked.scope, "headers": headers}
            # No client waits for a 401: the task keeps why its call was ended.
            await self._calls.make(asked.caller, taken, scope, body, _forever, answer.send, None)
            found = await answer.message()
        finally:
            # Also after a mistake of the gateway: a task without an end would be asked for again and again.
            text = f"{call.tool} was begun, and its answer is lost: it may have run."
            run.answer = found or _error(text, "answer_lost")
            run.ended_at = now_ms()

    async def _cancel(self, asked: AskedMessage, call: WaitingCall, text: str) -> None:
        run = self._runs.get(call.approval)  # read once: a poll may forget it meanwhile, to begin another one
        await self._calls.take(asked.caller, call.approval, withdraw=run is None)  # fails if the access token is over
        if run is not None:
            run.is_cancelled = True
            self._end(run)
        status = _Status("cancelled", "The client has cancelled the call.", None, now_ms())
        shown = {"resultType": "complete"} if asked.is_stateless else _shown(text, call, status, False)
        await asked.result(shown)

    def _end(self, run: _Run | None) -> None:
        if run is not None and run.task is not None:
            run.task.cancel()

    def _has_room(self, caller: TokenCaller) -> bool:
        """Return whether another call of a task can be begun; forget those that are over."""
        now = now_ms()
        for name in [name for name, run in self._runs.items() if run.until <= now and run.answer is not None]:
            del self._runs[name]
        own = [name for name, run in self._runs.items() if run.principal == caller.principal]
        if len(own) >= MAX_RUNS:
            over = [name for name in own if self._runs[name].answer is not None]
            if not over:
                return False
            del self._runs[over[0]]  # its client has had the time to read it
        return len(self._runs) < MAX_ALL_RUNS


def announce_tasks(audience: str, macaroon: Macaroon, stated: str, method: str, result: Object) -> bool:
    """Add to a result that calls may become tasks; return whether it was added.

    Args:
        audience: The audience of the upstream.
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
    if method == "initialize" and isinstance(capabilities, dict) and HAS_TASKS <= revision < STATELESS:
        tasks = _member(capabilities, "tasks")
        _member(tasks, "cancel")
        _member(_member(_member(tasks, "requests"), "tools"), "call")
        return True
    if method != "tools/list" or not HAS_TASKS <= stated < STATELESS:
        return False
    patterns = [pattern for tools in wanted for pattern in tools]
    for tool in result["tools"]:
        needs = any(matches_tool(pattern, f"{audience}.{tool.get('name')}") for pattern in patterns)
        # Also where the server forbids them: the gateway answers the task.
        if needs and _member(tool, "execution").get("taskSupport") != "required":
            tool["execution"]["taskSupport"] = "optional"
    return True


def _request_of(about: HandleApproval, audience: str, asked: AskedMessage) -> Object:
    """Return the call of a task: the arguments are those that operators saw."""
    params: Object = {"name": about.tool.removeprefix(f"{audience}."), "arguments": about.args}
    if asked.is_stateless:
        meta = dict(asked.message.meta)
        capabilities: Object = dict(object_in(meta, _CAPABILITIES))
        # The upstream must not answer with a task of its own: no client would ask for that one.
        capabilities["extensions"] = {
            name: value for name, value in (capabilities.get("extensions") or {}).items() if name != TASKS
        }
        capabilities.pop("elicitation", None)  # the result of a task asks for no input
        meta[_CAPABILITIES] = capabilities
        meta.pop("progressToken", None)
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": _ID, "method": "tools/call", "params": params}


def takes_tasks(asked: AskedMessage) -> bool:
    """Return whether a client declares that its call may become a task.

    Args:
        asked: The call.
    """
    # A server demands them of some tools, and a poll does not repeat them: such a client repeats its call.
    if any(name.startswith(b"mcp-param-") for name in asked.exchange.headers):
        return False
    if not asked.is_stateless:
        return isinstance(asked.message.params.get("task"), dict)
    return TASKS in object_in(object_in(asked.message.meta, _CAPABILITIES), "extensions")


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
    return _Status(name, text, _error(text, code), now_ms())


def _error(text: str, code: str) -> Object:
    return {"error": {"code": INTERNAL_ERROR, "message": text, "data": {"code": code}}}


def _member(value: Object, name: str) -> Object:
    """Return a member that is an object; make it if there is none."""
    found = value.get(name)
    if not isinstance(found, dict):
        found = value[name] = {}
    return found


def _payload(asked: AskedMessage, status: _Status, task: str) -> bytes:
    """Return what ``tasks/result`` of MCP 2025-11-25 asks for."""
    answer = dict(status.answer or {}) | {"id": asked.message.id, "jsonrpc": "2.0"}
    if isinstance(answer.get("result"), dict):
        meta = object_in(answer["result"], "_meta") | {_RELATED: {"taskId": task}}
        answer["result"] = answer["result"] | {"_meta": meta}
    return written(answer)


async def _forever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
