# SPDX-License-Identifier: Apache-2.0
"""One guarded call of an RPC server: its token in the metadata, its arguments in its messages.  SPEC 8, 11.

The token is sent once, before the messages, and its proof covers one tool with its arguments.  So the first message
decides.  A later message of the same call has no other arguments.  It may leave some out, which then have their
defaults in it, and have fields that the service declares as ``data``, which are arguments of no message.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NoReturn, Unpack
from urllib.parse import unquote

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, read_traceparent, refused_end
from arx_verifier.enforcement.base.guard import granted
from arx_verifier.enforcement.base.problems import BUDGET_HEADER, Answer
from arx_verifier.enforcement.grants.call_effect import CallEffect, EffectResult
from arx_verifier.enforcement.grants.grant_life import RECHECK_MS
from arx_verifier.enforcement.grants.running_calls import RunningCall, RunningCalls
from arx_verifier.enforcement.rpc.protobuf import arguments_of
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.journal.decision import Decision
from arx_verifier.names import is_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import GuardOptions

RPC_PROBLEM: Final = "arx-problem-bin"  # trailing metadata: the problem of a refusal (RFC 9457), as over HTTP

Metadata = Iterable[tuple[str, str | bytes]]
_PEERS: Final = Peers()
_UNSURE: Final = frozenset((4, 14))  # DEADLINE_EXCEEDED and UNAVAILABLE: what was called behind the tool may have run


class RpcMethods:
    """The tools of a server's methods.

    Args:
        verifier: The verifier; it starts with the first call of each process.
        tools: The tool of each guarded method: ``{"/orders.Orders/Refund": "orders.refund"}``.
        public: The methods that need no token.
        data: The fields of a method's messages that are no arguments: ``{"/orders.Orders/Upload": ["chunk"]}``.
        recheck_ms: Longest time between two rechecks of the grant of a running call, ms; at least 1.
        options: ``limits``, ``effects``, and ``mode`` and ``until`` of a guard that watches; see ``GuardOptions``.

    Raises:
        SettingsError: A name or a limit is malformed, a method is public and in ``tools``, or ``recheck_ms`` is below
            1.
    """

    def __init__(
        self,
        verifier: Verifier,
        tools: Mapping[str, str],
        public: Collection[str] = (),
        data: Mapping[str, Collection[str]] | None = None,
        recheck_ms: int = RECHECK_MS,
        **options: Unpack[GuardOptions],
    ) -> None:
        self.enforcement = Enforcement(verifier, **options)
        self.calls = RunningCalls(self.enforcement.verifier, recheck_ms)
        self.tools, self._public, self.data = dict(tools), frozenset(public), dict(data or {})
        if isinstance(public, str):
            raise SettingsError(f"`public`: expected a list of methods, got {public!r:.100}")
        for method in (*self.tools, *self._public, *self.data):
            if not method.startswith("/") or method.count("/") != 2:
                raise SettingsError(f"{method!r:.100} is no method: expected one such as '/orders.Orders/Refund'")
        for method, tool in self.tools.items():
            if not is_tool(tool):
                raise SettingsError(f"method {method!r:.100} names {tool!r:.100}, which is no tool")
        if both := sorted(self._public & self.tools.keys()):
            raise SettingsError(f"{both[0]!r:.100} is public and in `tools`")

    def is_public(self, method: str) -> bool:
        """Return whether a method needs no token.

        Args:
            method: Its whole name.
        """
        return method in self._public

    def call(self, method: str, metadata: Metadata) -> "RpcCall":
        """Return a call; its token is authenticated before a message is read.

        Args:
            method: The whole name of its method.
            metadata: What came before the messages.
        """
        return RpcCall(self, method, metadata)


class RpcCall:
    """One call of a guarded method.

    Args:
        methods: The tools of the server.
        method: The method.
        metadata: What came before the messages.
    """

    running: RunningCall | None = None
    _is_sure = True  # whether the answer was seen
    _token: Screened | RefusedCall
    _unread: RefusedCall | None = None
    _args: dict[str, Any]
    _grant: granted

    def __init__(self, methods: RpcMethods, method: str, metadata: Metadata) -> None:
        self._methods, self._tool = methods, methods.tools.get(method, "")
        self._data = frozenset(methods.data.get(method, ()))
        found = self._sent = dict[str, list[bytes]]()
        for name, value in metadata:
            found.setdefault(name, []).append(value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        trace = found.get("traceparent")
        self._traceparent = read_traceparent(trace[0]) if trace and len(trace) == 1 else None
        try:
            self._token = methods.enforcement.screen(b"\n".join(found.get("authorization", [])))
            if not self._tool:
                self._unread = RefusedCall("tool_not_allowed", "this method has no tool")
        except RefusedCall as problem:
            self._token = self._unread = problem

    def admit(self, peer: str) -> None:
        """Require a token of this service, before a message is read.

        Args:
            peer: The other end, such as ``ipv4:192.0.2.7:5000``.

        Raises:
            RefusedCall: There is none, or the method has no tool.
        """
        kind, _, place = unquote(peer).partition(":")
        host = place.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
        self._peer = _PEERS.of(host)
        if self._unread is not None and self._methods.enforcement.watch is None:
            self.refuse_unread(self._unread)

    def refuse_unread(self, problem: RefusedCall) -> NoReturn:
        """Count and raise the refusal of a call on which no decision can be made."""
        self._methods.enforcement.count(problem, self._peer)
        raise problem

    def read(self, raw: Any, parse: Callable[[Any], Any] | None) -> Any:
        """Return the first message, parsed after the token was authenticated.

        Args:
            raw: Its bytes; None for a stream without one.
            parse: Parses it, as the framework would.

        Raises:
            RefusedCall: It cannot be parsed.
        """
        try:
            return None if raw is None else (parse or bytes)(raw)
        except Exception:  # of any code of the application
            self.refuse_unread(RefusedCall("malformed_request", "the message cannot be parsed"))

    def request(self, message: Any) -> AccessRequest:
        """Return the request that the first message makes.

        Args:
            message: The first message; None for a stream without one.

        Raises:
            RefusedCall: The message has no single meaning.
        """
        try:
            self._args = {} if message is None else self._arguments(message)
        except RequestError as error:
            problem = RefusedCall("malformed_request", str(error))
            if not self._methods.enforcement.spares(problem, self._peer):
                self.refuse_unread(problem)
            self._tool, self._args = "", {}  # which no token allows: its token is held to kills all the same
        return AccessRequest(self._tool, self._args, now_ms(), self._peer, None, None, self._traceparent)

    def decide(self, request: AccessRequest, cut: Callable[[bool], object]) -> None:
        """Decide on the request; see ``begin``."""
        self.begin(self._methods.enforcement.decide(self._token, request, self._header), request, cut)

    async def decide_async(self, request: AccessRequest, cut: Callable[[bool], object]) -> None:
        """Decide on the request without blocking the event loop; see ``begin``."""
        self.begin(await self._methods.enforcement.decide_async(self._token, request, self._header), request, cut)

    def _header(self, name: str) -> bytes:
        return b", ".join(self._sent.get(name, []))

    def begin(self, decision: Decision, request: AccessRequest, cut: Callable[[bool], object]) -> None:
        """Recheck the grant of a decision from now on.

        Args:
            decision: The decision.
            request: The request that it was made on.
            cut: As ``RunningCalls.begin`` takes it.

        Raises:
            RefusedCall: The decision is a refusal.
        """
        self._methods.enforcement.require(decision, request)
        self._grant = granted(self._methods.enforcement, decision, request, answers=False)
        self.running = self._methods.calls.begin(decision, cut)

    def context(self) -> granted:
        """Return a context in which ``current_grant()`` is that of the call."""
        return self._grant

    def take(self, message: Any) -> Any:
        """Return a later message of the call.

        Args:
            message: The message.

        Raises:
            RefusedCall: The call was ended.
            RequestError: It has arguments that were not decided on; the call is ended.
        """
        assert self.running is not None
        if self.running.reason is not None:  # a thread cannot be cancelled: it gets no more of what it reads
            raise refused_end(self.running.reason, self.running.decision)
        try:
            later = self._arguments(message)
            # Absent differs from any value, also from null: no argument of a message is null.
            if any(self._args.get(name) != value for name, value in later.items()):
                raise RequestError("a later message of a call has other arguments than its first one")
        except RequestError as error:
            if self._methods.enforcement.spares(RefusedCall("malformed_request"), self._peer):
                return message
            self.running.end(error)
            raise
        return message

    def require_running(self) -> None:
        """Require the grant before an answer, or a part of it, leaves.

        Raises:
            RefusedCall: The call was ended.
        """
        if self.running is not None:
            if (ended := self.running.check()) is not None:
                raise refused_end(ended, self.running.decision)
            self.running.grant.leave()

    def report(self, message: Any, serialize: Callable[[Any], bytes] | None) -> None:
        """Report an answer, or a part of it, that is about to leave, for the record of the call's effect.  SPEC 12.8.

        Args:
            message: The message.
            serialize: Returns its bytes, as the framework would; None for bytes.
        """
        if self.running is None or self.running.effect is None:
            return
        try:
            self.running.effect.take((serialize or bytes)(message))
        except Exception:  # the tool has run: the framework answers to this as it would without a guard
            self._is_sure = False

    def ended_effect(self, status: Callable[[], Any], *, failed: bool) -> tuple[CallEffect, EffectResult] | None:
        """Return the effect of a call whose method is over, with the result to settle it with.  SPEC 12.8.

        It must be settled before the end of its answer leaves.

        Args:
            status: Returns the status that the method has set, or its number; None for that of success.
            failed: Whether the method has raised.
        """
        running = self.running
        if running is None or running.reason is not None or (effect := running.effect) is None:
            return None
        code = status()
        effect.status = int(getattr(code, "value", (code,))[0] or 0)
        has_broken_off = failed and running.state == "open"  # parts of its answer may have left
        if has_broken_off or not self._is_sure or effect.status in _UNSURE:
            return effect, "unknown"
        return effect, "failed" if failed or effect.status else "done"

    def left(self) -> tuple[tuple[str, str], ...]:
        """Return the trailing metadata of an answer that holds what the token's budgets have left.  SPEC 17.4."""
        grant = None if self.running is None else self.running.grant
        if grant is None or not grant.has_budget:
            return ()
        return ((BUDGET_HEADER.decode("ascii"), grant.remaining_text()),)

    def answer_to(self, error: BaseException) -> Answer:
        """Return the problem of a refused or ended call as it is answered over HTTP.

        Args:
            error: What was raised.

        Raises:
            BaseException: The error itself, which is not of ARx.
        """
        problem = error if isinstance(error, RefusedCall) else None
        if problem is None and self.running is not None and self.running.reason is not None:
            problem = refused_end(self.running.reason, self.running.decision)
        if problem is None:
            raise error
        return self._methods.enforcement.answer(problem)

    def close(self) -> None:
        """Recheck no longer: the call is over."""
        if self.running is not None:
            self.running.close()

    def _arguments(self, message: Any) -> dict[str, Any]:
        if not hasattr(message, "ListFields"):
            raise RequestError("the request is no protobuf message")
        return arguments_of(message, self._data)
