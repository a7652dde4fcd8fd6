# SPDX-License-Identifier: Apache-2.0
"""A grant or a problem for a credential and a request, for every adapter.  SPEC 11, 13.

Each adapter, for ASGI, WSGI, MCP, gRPC or a function, calls this and decides nothing itself.  This module uses no
framework.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, Unpack

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.problems import Answer, answer
from arx_verifier.enforcement.base.routes import LINE_BREAK
from arx_verifier.errors import ArxError, Failure, RequestError, shorten
from arx_verifier.journal.decision import OK, Decision
from arx_verifier.request import BOXES, AccessRequest, HttpCall
from arx_verifier.token.wire import TOKEN_PREFIX
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import ENFORCED, GuardOptions, Watch, WatchedCall

BOX_HEADER: Final = b"x-arx-box"  # in which a client states the box that it runs in; a gateway forwards none
MOST_UNMAPPED: Final = 100  # paths that are logged: the caller chooses them, and could fill a log
_TOKEN: Final = re.compile(rb"(?:^|[\s,])" + TOKEN_PREFIX.encode("ascii"))
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

Header: TypeAlias = Callable[[str], str | bytes | None]


class RefusedCall(Exception):  # noqa: N818 - an answer to a caller, and no failure of the program
    """A refusal before its answer.

    Attributes:
        code: A key of ``REASONS``.
        detail: Replaces the code's own sentence; no secret.
        status: Replaces the code's own HTTP status.
        failures: The expected and the received values, if the caller may know them.
        decision: The id of the recorded decision, if there is one.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        status: int | None = None,
        failures: Sequence[Failure] = (),
        decision: str = "",
    ) -> None:
        super().__init__(code)
        self.code, self.detail, self.status, self.failures, self.decision = code, detail, status, failures, decision

    @classmethod
    def of(cls, error: Exception) -> "RefusedCall":
        """Return a refusal itself, and for any other error that of a request without a single meaning."""
        return error if isinstance(error, RefusedCall) else cls("malformed_request", str(error))


class Enforcement:
    """The decisions of one verifier, as adapters need them.

    Args:
        verifier: Decides and records.
        options: As every guard has them.

    Attributes:
        verifier: The same, with its limits, effects and watch.

    Raises:
        SettingsError: A limit or tool is malformed, or the watch has no end, or one more than 30 days ahead.
    """

    def __init__(self, verifier: Verifier, **options: Unpack[GuardOptions]) -> None:
        self.verifier = verifier.within(**options)
        self._unmapped: set[tuple[str, str]] = set()

    @property
    def watch(self) -> Watch | None:
        """The watch that is on; None while every refusal holds."""
        return self.verifier.watch

    def screen(self, value: bytes) -> Screened:
        """Authenticate the token of a request, before its body is read.

        Args:
            value: The value of ``Authorization`` in ``collect_headers``; empty if there is none.

        Returns:
            The authenticated token, which is no grant.

        Raises:
            RefusedCall: No header, more than one, or a token that no key of this service signed.
        """
        # Two headers are refused, not joined or chosen from: a proxy may have checked the other one.
        if LINE_BREAK in value:
            raise RefusedCall("malformed_request", "there is more than one Authorization header")
        scheme, _, token = value.partition(b" ")
        token = token.strip(b" ")
        if not token or scheme.lower() != b"bearer":
            raise RefusedCall("missing_token")
        found = self.verifier.screen(token.decode("latin-1"))
        if isinstance(found, str):
            raise RefusedCall(found)
        return found

    def decide(self, token: object, request: AccessRequest, header: Header | None = None) -> Decision:
        """Allow or refuse a call; may wait for a probe, a shared store or a disk.

        Args:
            token: What ``screen`` returned or raised, a text that was presented, or another value from a message.
            request: The request.
            header: Returns the value of a header by its name in lower case, for the group of a call without a token.
        """
        if isinstance(token, Screened):
            return self.verifier.decide(token.token, request, screened=token)
        if isinstance(token, str) and token:
            return self.verifier.decide(token, request)
        return self._refuse(token, request, header)

    def decide_async(self, token: object, request: AccessRequest, header: Header | None = None) -> Awaitable[Decision]:
        """Decide as ``decide`` does, without blocking the event loop.

        Args:
            token: As in ``decide``.
            request: As in ``decide``.
            header: As in ``decide``.
        """
        # Each request comes this way: the verifier's coroutine is returned itself, without another around it.
        if isinstance(token, Screened):
            return self.verifier.decide_async(token.token, request, screened=token)
        if isinstance(token, str) and token:
            return self.verifier.decide_async(token, request)
        return self._refuse_async(token, request, header)

    async def _refuse_async(self, token: object, request: AccessRequest, header: Header | None) -> Decision:
        return self._refuse(token, request, header)

    def _refuse(self, token: object, request: AccessRequest, header: Header | None) -> Decision:
        if isinstance(token, RefusedCall):
            return self.refuse(token, request, header)
        return self.verifier.refuse("malformed" if token else "missing_token", request)

    def spares(self, problem: RefusedCall, peer: str | None) -> bool:
        """Return whether a request that is not verified goes on in watch mode; count it then.

        Args:
            problem: The refusal.
            peer: The caller's address, or None.
        """
        if (watch := self.watch) is None or not watch.spares(problem.code):
            return False
        self.verifier.refuse(problem.code, AccessRequest("", {}, now_ms(), peer))
        return True

    def refuse(self, problem: RefusedCall, request: AccessRequest, header: Header | None) -> Decision:
        """Return the decision on a call without a proven token.

        Args:
            problem: Why it has none.
            request: The request.
            header: Returns the value of a header by its name in lower case, for the group of the call.
        """
        watch, group = self.watch, None
        if watch is not None and watch.group_by:
            sent = request.peer if watch.group_by == "address" else header and header(watch.group_by)
            group = sent.decode("latin-1") if isinstance(sent, bytes) else sent
        return self.verifier.refuse(problem.code, request, group)

    def require(self, decision: Decision, request: AccessRequest) -> Grant | WatchedCall:
        """Return the grant of a decision, or the call that goes on in watch mode without one.

        Args:
            decision: The decision.
            request: The request that it was made on.

        Raises:
            RefusedCall: The decision is a refusal, or the request has no tool.
        """
        grant = decision.grant
        # All three: a decision that a sink or a subclass has changed must not open a call.
        if grant.__class__ is Grant and decision.code == OK and request.tool:
            return grant
        # An allow without a tool is a route that `tools` does not name: its token was good, and the call stays refused.
        code = "tool_not_allowed" if decision.allowed else decision.code
        if code == "tool_not_allowed" and not request.tool and request.http is not None:
            self._report_unmapped(request.http)
        watched = decision.watch
        if watched.__class__ is WatchedCall and decision.watched and decision.code not in ENFORCED:
            return watched
        raise RefusedCall(code, failures=decision.all_failures(), decision=decision.id)

    def _report_unmapped(self, http: HttpCall) -> None:
        """Log method and path of a request without a tool, each once: the answer to the caller has neither."""
        target = http.target if isinstance(http.target, str) else http.target.decode("latin-1")
        # Without the query, which may hold a secret.
        route = shorten(http.method, 20).strip('"'), shorten(target.partition("?")[0], 200)
        if route in self._unmapped or len(self._unmapped) >= MOST_UNMAPPED:
            return
        self._unmapped.add(route)
        import logging  # imported on use, to keep the import fast: a service in order needs none

        logging.getLogger(__name__).warning(
            "no tool for %s %s: its calls are refused (tool_not_allowed); name the route in `tools`, or correct the "
            "client%s",
            *route,
            "" if len(self._unmapped) < MOST_UNMAPPED else "; further paths are not logged",
        )

    def answer(self, problem: RefusedCall) -> Answer:
        """Return the HTTP answer to a problem."""
        return answer(
            problem.code,
            realm=self.verifier.keys.realm,
            failures=problem.failures,
            decision=problem.decision,
            status=problem.status,
            detail=problem.detail,
        )

    def count(self, problem: RefusedCall, peer: str | None) -> None:
        """Count the refusal of a request that was not verified.

        Args:
            problem: The refusal.
            peer: The caller's address, or None.
        """
        self.verifier.decisions.count(problem.code, peer)


def is_token(value: bytes) -> bool:
    """Return whether the value of ``Authorization`` has a text in the form of an ARx token, which no application gets.

    Args:
        value: The value.
    """
    return _TOKEN.search(value) is not None


def refused_end(reason: ArxError, decision: Decision | None) -> RefusedCall:
    """Return the refusal of a call that was ended.

    Args:
        reason: Why it was ended.
        decision: The decision that allowed it; None of work that no call has begun.
    """
    detail = str(reason) if isinstance(reason, RequestError) else None
    return RefusedCall(reason.code, detail, failures=reason.failures, decision="" if decision is None else decision.id)


def read_traceparent(value: bytes) -> str | None:
    """Return the caller's trace context (W3C), or None if it is malformed."""
    # The caller chooses this text, and it goes into records: nothing but hexadecimal digits passes.
    return value.decode("ascii") if _TRACEPARENT.fullmatch(value) else None


def read_box(value: bytes | None) -> str | None:
    """Return the box that a caller states: one of ``BOXES``, or None if it states none of them.  SPEC 12.11."""
    stated = None if value is None else value.decode("latin-1")
    return stated if stated in BOXES else None
