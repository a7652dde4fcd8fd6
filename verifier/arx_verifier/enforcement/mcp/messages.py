# SPDX-License-Identifier: Apache-2.0
"""MCP messages: the tool and the arguments of each, its decision, and its end after a kill.  SPEC 8, 11.

The adapters of MCP servers call this, and those of clients sign with ``mcp_meaning``.  This module uses no framework.
"""

import asyncio
import contextlib
import functools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple, Protocol, TypeVar, Unpack

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.calls import http_call
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, read_traceparent, refused_end
from arx_verifier.enforcement.base.guard import granted
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.enforcement.grants.call_effect import CallEffect, EffectResult
from arx_verifier.enforcement.grants.grant_life import RECHECK_MS
from arx_verifier.enforcement.grants.loop_calls import LoopCall, LoopCalls, TaskCut
from arx_verifier.errors import REASONS, ArxError, RequestError, Shortfall, refusal
from arx_verifier.journal.decision import Decision
from arx_verifier.refusal_text import refusal_for_model
from arx_verifier.request import AccessRequest
from arx_verifier.verification.freshness import recheck
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.reasons import Refused
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import GuardOptions, WatchedCall

T = TypeVar("T")

META_KEY: Final = "dev.arx/cap"  # the member of `_meta` with the token of a message
BUDGET_KEY: Final = "dev.arx/budget"  # the member of a result's `_meta` that has what is left, by unit
REFUSAL_KEY: Final = "dev.arx/refusal"  # that of a refused tool call's result: the refusal for a program
_NOTIFICATIONS: Final = frozenset(
    f"notifications/{name}"
    for name in ("cancelled", "initialized", "message", "progress", "roots/list_changed", "elicitation/complete")
)
_CALLS: Final = frozenset(
    (
        "completion/complete",
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "subscriptions/listen",
    )
)


class _List(NamedTuple):
    """A list that clients ask for.

    Attributes:
        member: The member of the result.
        tool: The tool that an item stands for; None if the item is a tool.
        argument: The argument of it that the item has; None if it has none.
    """

    member: str
    tool: str | None
    argument: str | None


_LISTS: Final[Mapping[str, _List]] = {
    "tools/list": _List("tools", None, None),
    "prompts/list": _List("prompts", "prompts.get", "name"),
    "resources/list": _List("resources", "resources.read", "uri"),
    "resources/templates/list": _List("resourceTemplates", "resources.read", None),
}
_CACHED_MS: Final = 1_000  # the longest time that a client may keep a list
METHOD_NOT_FOUND: Final = -32601  # JSON-RPC 2.0
MCP_REFUSED: Final = -32010  # an implementation's own code (MCP 2026-07-28: -32000 to -32019)
_SESSION: Final = frozenset(("initialize", "logging/setLevel", "ping", "server/discover"))
# Of a task that a call has become: MCP 2025-11-25, and the extension io.modelcontextprotocol/tasks of 2026-07-28.
_TASKS: Final = frozenset(f"tasks/{name}" for name in ("cancel", "get", "list", "result", "update"))
_METHODS: Final = frozenset(("tools/call", *_CALLS, *_LISTS, *_SESSION, *_TASKS))
_ENVELOPE: Final = frozenset(("_meta", "inputResponses", "requestState"))  # not the call's arguments
# Escapes of unreserved characters (RFC 3986 2.3) and of the slash, which a pattern's `*` does not match.
_ESCAPED: Final = re.compile(r"%(?:2[DEF]|3\d|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE)
_TOOLS_OF_METHODS: Final = frozenset(method.replace("/", ".") for method in _CALLS)


class Carrier(Protocol):
    """The HTTP request that carried a message, as Starlette has it."""

    @property
    def scope(self) -> MutableMapping[str, Any]:
        """The ASGI scope."""

    async def body(self) -> bytes:
        """Return the whole body, which the server has read and kept."""


class McpMessage(NamedTuple):
    """One message of a client.

    Attributes:
        method: Its method, such as ``tools/call``.
        params: Its parameters as they were sent.
        meta: The ``_meta`` of them.
        id: Its JSON-RPC id, or None.
        carrier: The HTTP request that carried it, or None.
    """

    method: str
    params: Mapping[str, Any]
    meta: Mapping[str, Any]
    id: object = None
    carrier: Carrier | None = None

    @property
    def is_call(self) -> bool:
        """Whether a tool is decided on; other messages need a live token."""
        return self.method not in _SESSION and self.method not in _LISTS and not self.is_task

    @property
    def is_task(self) -> bool:
        """Whether it is about a task that an earlier call has become."""
        return self.method in _TASKS

    @property
    def is_component(self) -> bool:
        """Whether it is about a tool, a resource or a prompt, and not about the session."""
        return self.method in ("tools/call", "resources/read", "prompts/get") or self.method in _LISTS

    @property
    def is_free(self) -> bool:
        """Whether it needs no token, as it came through a pipe, whose other end has started this server.

        A list is empty then: a client of the SDK asks for one by itself, where it can carry no token.
        """
        return not self.is_call and not self.is_task and self.carrier is None and META_KEY not in self.meta

    @property
    def lists(self) -> str | None:
        """The member of the answer that has the items, of a message that asks for a list; else None."""
        kind = _LISTS.get(self.method)
        return None if kind is None else kind.member


class McpRefusal(NamedTuple):
    """How a refusal is answered.

    Attributes:
        for_model: Whether it is the result of a tool, which the model reads; else a protocol error.
        error: The JSON-RPC code of a protocol error.
        text: The sentences for the model.
        data: The data of a protocol error: code, retry, decision, and of a budget that is too small its ``budget``.
    """

    for_model: bool
    error: int
    text: str
    data: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """The ``_meta`` of the result of a tool, which has the same data."""
        return {REFUSAL_KEY: self.data}


def budget_meta(grant: Grant | WatchedCall | None) -> dict[str, Any]:
    """Return what ``_meta`` of the result of an allowed call has of its budgets; empty without one.  SPEC 17.4.

    Args:
        grant: The grant of the call, or the call that goes on in watch mode without one.
    """
    return {BUDGET_KEY: {**grant.remaining}} if grant is not None and grant.has_budget else {}


def mcp_meaning(audience: str, method: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the tool and the arguments of a message, as its proof covers them.

    Args:
        audience: The server's audience, which all its tools begin with.
        method: The method.
        params: The parameters.

    Returns:
        The tool and its arguments; for a message that calls none, no tool and as arguments the method, and the task.

    Raises:
        RequestError: A call of a tool without a name or with other arguments than an object, or of a tool that has the
            name of a method; a URI with two spellings; or a method that is not known.
    """
    if method == "tools/call":
        name, args = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not name or not isinstance(args, dict | None):
            raise RequestError("a call of a tool has a name, and an object of arguments")
        if name in _TOOLS_OF_METHODS:  # a rule for one of them would also be one for the other
            raise RequestError(f"no tool may be called {name}: it is the name of a method")
        return f"{audience}.{name}", args or {}
    if method in _CALLS:
        if _ESCAPED.search(str(params.get("uri", ""))):
            raise RequestError("the URI has an escape that it does not need: two spellings of one resource")
        if method == "prompts/get" and not params.get("arguments"):
            params = {"name": params.get("name")}  # SDKs send no arguments, or an empty object
        return f"{audience}.{method.replace('/', '.')}", {
            name: value for name, value in params.items() if name not in _ENVELOPE
        }
    if method in _SESSION or method in _LISTS or method in _TASKS:
        task = {"taskId": params["taskId"]} if method in _TASKS and "taskId" in params else {}
        return "", {"method": method, **task}
    raise RequestError(f"unknown method {method!r:.60}")


class LiveWork:
    """Work that a live token allows, and that ends with it.

    Args:
        life: Its life.
        streams: Whether the caller gets parts of an answer before its end, which nothing here sees.
    """

    def __init__(self, life: LoopCall, *, streams: bool = False) -> None:
        self._life, self._streams = life, streams

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run the work in this task, and cancel it when its token is revoked, frozen or expires.

        Args:
            work: Returns what to await.

        Returns:
            Its result.

        Raises:
            RefusedCall: It was ended; there is no result, also if the work had one.
        """
        cut = TaskCut()
        self._life.begin(cut)
        try:
            if self._streams:
                self.check()
            result = await work()
            self.check()
            await self._life.settle(mcp_effect(result))
            return result
        except BaseException as error:
            alone = cut.close()
            if isinstance(error, Exception):
                self._life.check(anew=True)  # its text is an answer too
                is_sure = self._life.reason is None and not getattr(error, "sent", False)  # of an upstream's answer
                await self._life.settle("failed" if is_sure else "unknown")
            if self._life.reason is None or (isinstance(error, asyncio.CancelledError) and not alone):
                raise
            raise refused_end(self._life.reason, self._life.decision) from None
        finally:
            cut.close()
            self._life.close()

    def check(self) -> None:
        """Recheck the token before a result or a part of it leaves.

        Raises:
            RefusedCall: The token was revoked or frozen, or has expired; the end of a call is recorded.
        """
        # What would leave after the lease of this view could be of a call that was killed.
        if (ended := self._life.check(anew=True)) is not None:
            raise refused_end(ended, self._life.decision)


class Work(LiveWork):
    """One allowed message while it runs.

    Args:
        enforcement: The decisions of the verifier.
        calls: The granted calls of this event loop.
        decision: The decision that allowed it.
        request: The request that the decision was made on.
        streams: As in ``LiveWork``.

    Raises:
        RefusedCall: The decision is a refusal.
    """

    def __init__(
        self, enforcement: Enforcement, calls: LoopCalls, decision: Decision, request: AccessRequest, *, streams: bool
    ) -> None:
        self._enforcement, self._request, self.decision = enforcement, request, decision
        self.grant = enforcement.require(decision, request)
        effect = CallEffect.of(enforcement.verifier, decision)
        super().__init__(LoopCall(calls, self.grant.look_again, decision, self.grant, effect=effect), streams=streams)

    async def settle(self, result: EffectResult, answer: bytes = b"") -> None:
        """Record the effect of the call, unless that is done, before its answer leaves.  SPEC 12.8.

        Args:
            result: What the answer shows.
            answer: The answer.
        """
        if (effect := self._life.effect) is not None:
            if answer:
                effect.take(answer)
            await effect.settle_async(result)

    async def require_texts(self, schema: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Refuse an argument whose text is JSON of another type, unless the tool takes text there.

        Args:
            schema: Returns the tool's input schema; called only for such an argument.

        Raises:
            RefusedCall: There is one; the end of the call is recorded.
        """
        # An SDK may read ``"null"`` as no value: the tool would get what was not judged.
        ambiguous = (
            []
            if self._enforcement.watch
            else [name for name, value in self._request.args.items() if type(value) is str and _is_json(value)]
        )
        if not ambiguous:
            return
        types = {name: each.get("type") for name, each in dict((await schema()).get("properties") or {}).items()}
        wrong = next((name for name in ambiguous if types.get(name) != "string"), None)
        error: ArxError | None = None
        if wrong is not None:
            error = RequestError(f"argument {wrong!r:.60} is JSON in a text: send it as JSON")
        # A gateway waits for its upstream's schema: a call that was killed meanwhile does not begin.
        if (refused := error or self.grant.look_again()) is not None:
            self._life.end(refused)
            raise refused_end(refused, self.decision)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run the tool with its grant; see ``LiveWork.run``."""
        with granted(self._enforcement, self.decision, self._request):
            return await super().run(work)


class Messages:
    """The decisions on the messages of an MCP server.

    Args:
        verifier: Decides and records.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        recheck_ms: Longest time between two rechecks of the grant of a running tool, ms.
        tasks: Whether messages about tasks are known: the caller then holds each task to the holder that began it.
        options: ``limits``, ``effects``, and ``mode`` and ``until`` of a guard that watches; see ``GuardOptions``.

    Raises:
        SettingsError: A network or a limit is malformed.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        trusted_proxies: Iterable[str] = (),
        recheck_ms: int = RECHECK_MS,
        tasks: bool = False,
        **options: Unpack[GuardOptions],
    ) -> None:
        self._enforcement = Enforcement(verifier, **options)
        self.verifier, self._peers = self._enforcement.verifier, Peers(trusted_proxies)
        self._calls, self._tasks, self._started = LoopCalls(self.verifier, recheck_ms), tasks, False

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start the verifier, and close it at the end."""
        await self._start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.verifier.close)

    async def _start(self) -> None:
        if not self._started:
            await asyncio.to_thread(self.verifier.start)  # idempotent, so that two messages may come here at once
            self._started = True

    async def decide(self, message: McpMessage) -> Work:
        """Allow a message that calls a tool, reads a resource or gets a prompt.

        Raises:
            RefusedCall: It is refused.
        """
        token, request = await self._read(message)
        decision = await self._enforcement.decide_async(token, request, functools.partial(_header, message))
        streams = "progressToken" in message.meta or message.method == "subscriptions/listen"
        self._calls = self._calls.here()
        return Work(self._enforcement, self._calls, decision, request, streams=streams)

    async def run(
        self,
        message: McpMessage,
        schema: Callable[[], Awaitable[Mapping[str, Any]]],
        handler: Callable[[], Awaitable[T]],
    ) -> T:
        """Decide on a message that is a call, and return the result of its handler.

        Args:
            message: The message.
            schema: Returns the input schema of the tool that it names; an empty one if there is none.
            handler: Returns what to await.

        Raises:
            RefusedCall: It is refused, or was ended while it ran.
        """
        work = await self.decide(message)
        if message.method == "tools/call":
            await work.require_texts(schema)
        return await work.run(handler)

    async def recognize(self, message: McpMessage) -> Screened | None:
        """Return the live token of a message of the session, such as a request for a list; None if it needs none.

        In watch mode none is needed, and one that was revoked or frozen refuses.

        Raises:
            RefusedCall: It needs one and has none.
        """
        if message.is_free:
            return None
        token, request = await self._read(message)
        token = token.token if isinstance(token, Screened) else token
        if isinstance(token, RefusedCall) and self._enforcement.spares(token, request.peer):
            return None
        if not isinstance(token, str) or not token:
            raise self._counted(RefusedCall("malformed" if token else "missing_token"), request.peer)
        found = await self.verifier.recognize_async(token, request)
        if isinstance(found, Refused):
            problem = RefusedCall(found.code, failures=found.failures)
            if self._enforcement.spares(problem, request.peer):
                return None
            raise self._counted(problem, request.peer)
        return found

    def shows(self, message: McpMessage, screened: Screened | None, item: str) -> bool:
        """Return whether an answer shows an item: whether the token could allow a call of it.

        Args:
            message: The message that asks for the list.
            screened: Its live token, or None.
            item: The name of the tool or prompt, or the URI of the resource.
        """
        _, tool, argument = _LISTS[message.method]
        if screened is None or self._enforcement.watch is not None:
            return self._enforcement.watch is not None  # what a client does not see it would not call any more
        if tool is None and item in _TOOLS_OF_METHODS:
            return False
        known = {argument: item} if argument else {}
        return self.verifier.could_allow(screened, f"{self.verifier.audience}.{tool or item}", known)

    def shown(self, message: McpMessage, screened: Screened | None, items: Iterable[Any]) -> list[Any]:
        """Return those items of a list that an answer shows, of objects of an SDK with a ``name``, or a ``uri``.

        Args:
            message: The message that asks for the list.
            screened: Its live token, or None.
            items: The items.
        """
        return [item for item in items if self.shows(message, screened, str(getattr(item, "uri", item.name)))]

    def filtered(self, message: McpMessage, screened: Screened | None, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return a list's result with the items that the token could ever allow.

        Args:
            message: The message that asked for the list.
            screened: Its live token, or None.
            result: The result as the server writes it on the wire.
        """
        if self._enforcement.watch is not None:
            return {**result}
        member, items = str(message.lists), result.get(str(message.lists))
        # By what a client calls it with: a tool may have a `uri` too, which names nothing.
        named = "uri" if _LISTS[message.method].argument == "uri" else "name"
        shown = [
            item
            for item in (items if isinstance(items, list) else ())
            if isinstance(item, dict)
            and isinstance(name := item.get(named), str)
            and self.shows(message, screened, name)
        ]
        answer = {**result, member: shown}
        if "cacheScope" in answer or "ttlMs" in answer:
            # What a list shows ends with the token.
            ttl = answer.get("ttlMs", 0)
            answer |= {"cacheScope": "private", "ttlMs": min(ttl if type(ttl) is int else 0, _CACHED_MS)}
        return answer

    def _look_again(self, screened: Screened | None) -> ArxError | None:
        if screened is None:
            return None if self.watches else refusal("missing_token")
        epochs, proven, watch = self.verifier.epochs, screened.proven, self._enforcement.watch
        refused = recheck(epochs, proven, may_wait=False)
        return refused if watch is None else watch.enforced(refused, epochs, proven)

    @property
    def watches(self) -> bool:
        """Whether calls go on now that would be refused."""
        return self._enforcement.watch is not None

    def keep(self, screened: Screened | None) -> LiveWork:
        """Return work that no call has begun, such as a list, or the stream of a session.

        Args:
            screened: Its live token; in watch mode it may have none.
        """
        look_again = functools.partial(self._look_again, screened)
        self._calls = self._calls.here()
        return LiveWork(LoopCall(self._calls, look_again))

    def passes(self, notification: str) -> bool:
        """Return whether a notification reaches the server's handlers, as its method is a known one."""
        return notification in _NOTIFICATIONS or self._enforcement.watch is not None

    def _knows(self, message: McpMessage) -> bool:
        # A server has no code over its ids of tasks: any live token could read the tasks of all others.
        return message.method in _METHODS and (self._tasks or not message.is_task)

    def refusal(self, message: McpMessage, problem: RefusedCall) -> McpRefusal:
        """Return how a refusal is answered.

        Args:
            message: The message.
            problem: The refusal.
        """
        reason = REASONS[problem.code]
        tool = str(message.params.get("name")) if message.method == "tools/call" else message.method
        text = problem.detail or refusal_for_model(tool, problem.code, problem.failures, problem.decision)
        # Without an identity the caller has to stop or to sign anew, which a model cannot.  Of a kill it should know.
        unproven = reason.status == 401 and problem.code not in ("revoked", "frozen")
        data: dict[str, Any] = {"code": problem.code, "retry": reason.retry}
        if problem.decision:
            data["decision"] = problem.decision
        if problem.failures and isinstance(problem.failures[0], Shortfall):
            data["budget"] = problem.failures[0].budget()
        error = MCP_REFUSED if self._knows(message) else METHOD_NOT_FOUND
        return McpRefusal(message.method == "tools/call" and not unproven, error, text, data)

    async def _read(self, message: McpMessage) -> tuple[object, AccessRequest]:
        """Return the token, as ``Enforcement.decide`` takes it, and the request that it is for."""
        await self._start()
        scope = None if message.carrier is None else message.carrier.scope
        headers = {} if scope is None else collect_headers(scope["headers"])
        peer = self._peers.of_scope(scope or {}, headers)
        try:
            if not self._knows(message):
                raise RequestError(f"unknown method {message.method!r:.60}")
            tool, args = mcp_meaning(self.verifier.audience, message.method, message.params)
            token, http = message.meta.get(META_KEY), None
            if token is None and message.carrier is not None:
                token = self._enforcement.screen(headers.get(b"authorization", b""))
                http = http_call(message.carrier.scope, await message.carrier.body())
            elif self._enforcement.watch is not None and not (isinstance(token, str) and token):
                raise RefusedCall("malformed" if token else "missing_token")
        except (RequestError, RefusedCall) as error:
            malformed = isinstance(error, RequestError)
            problem = RefusedCall.of(error)
            if self._enforcement.watch is None:
                raise self._counted(problem, peer) from None
            token, http = problem.with_traceback(None), None
            if malformed:
                tool, args = "", dict[str, Any]()
                token = self._presented(message, headers) or problem
        trace = message.meta.get("traceparent")
        sent = trace.encode("ascii", "replace") if isinstance(trace, str) else headers.get(b"traceparent", b"")
        identity = None if message.id is None else str(message.id)
        return token, AccessRequest(tool, args, now_ms(), peer, http, identity, read_traceparent(sent))

    def _presented(self, message: McpMessage, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the token of a message without a single meaning, for which kills hold in watch mode."""
        token = message.meta.get(META_KEY)
        if token is None and message.carrier is not None:
            try:
                token = self._enforcement.screen(headers.get(b"authorization", b"")).token
            except RefusedCall:
                return None
        return token if isinstance(token, str) and token else None

    def _counted(self, problem: RefusedCall, peer: str | None) -> RefusedCall:
        self._enforcement.count(problem, peer)
        return problem


def _header(message: McpMessage, name: str) -> bytes | None:
    carrier = message.carrier
    return None if carrier is None else collect_headers(carrier.scope["headers"]).get(name.encode("latin-1"))


def mcp_effect(result: Any) -> EffectResult:
    """Return what the result of a message shows of the effect of its call.  SPEC 12.8.

    Args:
        result: The result as it is on the wire, or as an SDK has it.
    """
    result = getattr(result, "root", result)

    def member(name: str, attribute: str) -> Any:
        if isinstance(result, Mapping):
            return result.get(name)
        return getattr(result, name, getattr(result, attribute, None))

    # A call that has become a task goes on, and so does one that asks for input first.
    if member("task", "task") is not None or member("resultType", "result_type") not in (None, "complete"):
        return "unknown"
    return "failed" if member("isError", "is_error") else "done"


def _is_json(text: str) -> bool:
    """Return whether a text is JSON, but for a text and a number."""
    bare = text.strip(" \t\n\r")
    if bare[:1] not in ("[", "{"):
        return bare in ("true", "false", "null")
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True
