# SPDX-License-Identifier: Apache-2.0
"""One guarded request of a WSGI server: what was sent, its decision, and its answer.  SPEC 8, 11.

``WSGICall`` is the iterable that the server gets.  It gives nothing to the server before there is a grant, and rechecks
the grant before each part of the answer.
"""

import errno
import http
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, read_traceparent, refused_end
from arx_verifier.enforcement.base.problems import BUDGET_HEADER
from arx_verifier.enforcement.base.routes import PUBLIC, Meaning, Scope, require_clean_path
from arx_verifier.enforcement.grants.running_calls import RunningCall, RunningCalls
from arx_verifier.errors import ArxError, RequestError
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token.wire import sha256_of
from arx_verifier.verification.verifier import Screened

Environ: TypeAlias = dict[str, Any]
Start: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, Start], Iterable[bytes]]

CALL_KEY: Final = "arx.call"
_NO_TOOL: Final[Meaning] = ("", {})
_SOCKETS: Final = ("gunicorn.socket", "werkzeug.socket")  # where a server shows the connection of a request
_HEADERS: Final = (
    (b"content-type", "CONTENT_TYPE"),
    (b"content-encoding", "HTTP_CONTENT_ENCODING"),
    (b"traceparent", "HTTP_TRACEPARENT"),
)
_UNESCAPED: Final = "/!$&'()*+,;=:@~"  # as HTTP clients write a path (RFC 3986 3.3)

_log = logging.getLogger(__name__)


class WSGICall:
    """One request, and its decision once it is made.

    Args:
        enforcement: The decisions of the verifier.
        calls: The running calls of the process.
        environ: The request, as the application gets it.
        peer: The address of the caller, or None.

    Attributes:
        scope: The request in the form of an ASGI scope, for ``routes``; set by ``read_target``.
        body: The whole body: the signed bytes, on which the decision is made and which the application reads.
        running: The allowed call, once it was decided.
        problem: The refusal.
        unproven: Why its token was refused, if it may be for a public view.
        is_public: Whether the application answers it without a decision.
        is_unread: Whether it goes on in watch mode although it could not be read for a decision.
        environ: The request.
        matched: What the framework matched when the decision was made, for its adapter.
        members: The arguments in the body on which the decision was made.
    """

    scope: Scope
    body: bytes = b""
    running: RunningCall | None = None
    problem: RefusedCall | None = None
    unproven: RefusedCall | None = None
    is_public = is_unread = False
    matched: Any = None
    members: Mapping[str, Any] = MappingProxyType({})
    _screened: Screened | RefusedCall | None = None
    _target = b""
    _http: HttpCall
    _head: tuple[str, list[tuple[str, str]]] | None = None
    _write: Callable[[bytes], object] | None = None
    _chunks: Iterator[bytes] = iter(())
    _is_over = False

    def __init__(self, enforcement: Enforcement, calls: RunningCalls, environ: Environ, peer: str | None) -> None:
        self._enforcement, self._calls, self.environ, self._peer = enforcement, calls, environ, peer
        self._closed, self._socket_lock = False, threading.Lock()

    def read_target(self) -> None:
        """Read the method, the path and the query.

        Raises:
            RequestError: The server does not show one target of the request.
        """
        environ = self.environ
        path, target = _target_of(environ)
        headers = [(name, environ[key].encode("latin-1")) for name, key in _HEADERS if environ.get(key) is not None]
        raw, _, query = target.partition(b"?")
        self.scope = {"method": environ["REQUEST_METHOD"], "path": path, "raw_path": raw, "query_string": query}
        self.scope["headers"] = headers
        require_clean_path(self.scope)
        self._target = target

    def take(self, screened: Screened | RefusedCall, body: bytes) -> None:
        """Take the authenticated token and the body.

        Args:
            screened: The token; in watch mode also why there is none.
            body: The whole body.
        """
        self._screened, self.body = screened, body
        self._http = HttpCall(self.environ["REQUEST_METHOD"], self._target, sha256_of(body, b""))

    def judge(self, meaning: Callable[[], Meaning | None]) -> bool:
        """Decide on the tool and the arguments of the request, and return whether it is allowed.

        The grant is then ``environ["arx"]``, and is rechecked from now on.

        Args:
            meaning: Returns both, or None for a request without a tool; ``PUBLIC`` for one that needs none.  It may
                raise ``RequestError``.
        """
        if self.is_unread:
            return True
        try:
            # A framework could be led to another view afterwards: one call proof covers one call of one tool.
            if self.running is not None or self.problem is not None:
                raise RefusedCall("tool_not_allowed", "one call runs one view, and another one was reached")
            tool, args = meaning() or _NO_TOOL
            if tool is PUBLIC:
                self.is_public = True
            elif self._screened is None:
                self.refuse_unread(self.unproven or RefusedCall("missing_token"))  # let in for a public view alone
            else:
                self._decide(self._screened, tool, args)
        except RequestError as error:
            problem = RefusedCall("malformed_request", str(error))
            if not self.passes(problem):
                self.refuse_unread(problem)
        except RefusedCall as problem:
            if problem.decision or not self.passes(problem):
                self.problem = self.problem or problem
        return self.problem is None

    def passes(self, problem: RefusedCall) -> bool:
        """Return whether a request on which no decision can be made goes on in watch mode.

        Args:
            problem: The refusal; that of its token is then ``problem``.
        """
        if not self.spares(problem):
            return False
        # Without a tool, which no token allows: what holds in watch mode is decided on its token all the same.
        if self.running is None and self._screened is not None:
            try:
                self._decide(self._screened, "", {})
            except RefusedCall as held:
                self.problem = held
        return True

    def spares(self, problem: RefusedCall) -> bool:
        """Return whether a request on which no decision can be made goes on in watch mode.

        Args:
            problem: The refusal.
        """
        ended = self.running is not None and self.running.reason is not None
        if self.problem is not None or ended or not self._enforcement.spares(problem, self._peer):
            return False
        self.is_public = self.running is None
        return True

    def _decide(self, screened: Screened | RefusedCall, tool: str, args: Mapping[str, Any]) -> None:
        trace = self.environ.get("HTTP_TRACEPARENT")
        traceparent = read_traceparent(trace.encode("latin-1")) if trace is not None else None
        request = AccessRequest(tool, args, now_ms(), self._peer, self._http, None, traceparent)
        decision = self._enforcement.decide(screened, request, self._header)
        passed = self._enforcement.require(decision, request)
        self.environ[passed.KEY] = passed
        self.running = self._calls.begin(decision, self._hang_up)

    def _header(self, name: str) -> str | None:
        return self.environ.get(f"HTTP_{name.upper().replace('-', '_')}")

    def refuse_unread(self, problem: RefusedCall) -> None:
        """Count and refuse a request on which no decision can be made.

        Args:
            problem: The refusal.
        """
        self.problem = problem
        self._enforcement.count(problem, self._peer)

    def withdraw(self, error: ArxError) -> None:
        """Refuse an allowed call whose view reads other arguments than those of the decision, also while it runs.

        Args:
            error: The difference.
        """
        if self.spares(RefusedCall("malformed_request")):
            return
        self.problem = refused_end(error, None if self.running is None else self.running.decision)
        if self.running is not None:
            self.running.end(error)

    def respond(self, app: WSGIApp | None, start_response: Start) -> Self:
        """Run the application; return the answer for the server.

        Args:
            app: The application; None for a refused request.
            start_response: Of the server.
        """
        self._start_response = start_response
        try:
            if app is not None:
                self._chunks = iter(app(self.environ, self._start))
        except Exception as error:
            if not self._is_replaced(error):
                self._broke()
                self.close()
                raise
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        chunk = b""
        try:
            while not chunk:
                chunk = next(self._chunks)
        except StopIteration:
            self._is_over = True
        except Exception as error:
            if not self._is_replaced(error):
                self._broke()
                raise
        refusal = self._refusal()
        if refusal is not None and self._write is None:
            return self._refuse(refusal)
        if refusal is not None:
            raise _cut_off()  # not StopIteration: the end of the body would be taken for the whole
        self._report(chunk)
        self._open()
        if self._is_over:
            raise StopIteration
        return chunk

    def _report(self, part: bytes) -> None:
        """Report a part of the answer, and record the effect of the call before its last byte leaves.  SPEC 12.8."""
        effect = None if self.running is None else self.running.effect
        if effect is None:
            return
        if not effect.status and self._head is not None:
            lengths = [value for name, value in self._head[1] if name.lower() == "content-length"]
            if effect.begin(int(self._head[0][:3]), self.environ["REQUEST_METHOD"], *lengths[:1]):
                effect.settle()
        if effect.take(part) or self._is_over:
            effect.settle()

    def _broke(self) -> None:
        if self.running is not None:
            self.running.settle("failed" if self._write is None else "unknown")  # an answer that has begun breaks off

    def close(self) -> None:
        """End the application's iterable, and recheck no longer; the server calls this."""
        if self._closed:
            return
        with self._socket_lock:
            self._closed = True
        if self.running is not None:
            self.running.close()
        self.environ.pop(CALL_KEY, None)  # the call refers to the environ: without this they are a reference cycle
        self._close_chunks()

    def _close_chunks(self) -> None:
        chunks, self._chunks = self._chunks, iter(())
        if hasattr(chunks, "close"):
            chunks.close()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Take the head of the application's answer: its ``start_response``."""
        if exc_info is not None and self._write is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._head is not None:
            raise AssertionError("start_response was called twice, without exc_info")
        self._head = status, headers
        if status[:1] == "5" and self.running is not None:
            self.running.check(anew=True)  # the view may have failed because its own recheck of the grant raised
        return self._write_through

    def _write_through(self, data: bytes) -> None:
        if self._refusal() is not None:
            raise _cut_off()
        self._report(data)
        self._open()
        assert self._write is not None
        self._write(data)

    def _open(self) -> None:
        """Give the head to the server, unless it has it."""
        if self._write is None:
            assert self._head is not None, "the application answered without start_response"
            status, headers = self._head
            grant = self.running.decision.grant if self.running is not None else None
            if grant is not None and grant.has_budget:
                headers = [*headers, (BUDGET_HEADER.decode("ascii"), grant.remaining_text())]
            if self.running is not None:
                self.running.grant.leave()
            self._write = self._start_response(status, headers)

    def _refusal(self) -> RefusedCall | None:
        """Return why nothing of the application's answer may leave, or None."""
        if self.problem is not None or self.is_public:
            return self.problem
        if self.running is None:
            # No decision, and so an answer of the framework or of a middleware, such as a 404.
            self.judge(lambda: None)
            return self.problem
        ended = self.running.check()
        return None if ended is None else refused_end(ended, self.running.decision)

    def _is_replaced(self, error: Exception) -> bool:
        """Return whether an error of the application has no reader, because the call was refused or ended."""
        if self.running is not None and isinstance(error, ArxError):  # of its own recheck of the grant
            self.running.check(anew=True)
        if (self.problem is None and self.running is None) or self._refusal() is None:
            return False
        _log.debug("what a refused or ended call raised", exc_info=True)
        return True

    def _refuse(self, problem: RefusedCall) -> bytes:
        self._close_chunks()
        self._is_over, self.problem = True, problem
        answer = self._enforcement.answer(problem)
        headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in answer.headers]
        status = f"{answer.status} {http.HTTPStatus(answer.status).phrase}"
        self._write = self._start_response(status, headers)
        if self.environ["REQUEST_METHOD"] == "HEAD":
            raise StopIteration
        return answer.body

    def _hang_up(self, _: bool) -> None:
        """Close the connection of an open answer, if the server shows it: its thread may wait for the application."""
        found = next((self.environ[name] for name in _SOCKETS if name in self.environ), None)
        # Several calls share a connection of HTTP/2.
        if not isinstance(found, socket.socket) or not self.environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
            return
        with self._socket_lock:
            # After the end of the call, the connection may be that of another one.
            if not self._closed and self._write is not None:
                try:
                    # Not the method of a TLS socket, which would send in clear what another thread writes meanwhile.
                    socket.socket.shutdown(found, socket.SHUT_RDWR)
                except OSError:
                    return  # the client has closed it


def _target_of(environ: Environ) -> tuple[str, bytes]:
    """Return the path that the application routes, and the raw path and query as they were sent."""
    info, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    script, raw = environ.get("SCRIPT_NAME", ""), environ.get("RAW_URI") or environ.get("REQUEST_URI")
    # The fast path of nearly every call: it was sent as it is routed, and its path has no escape.
    is_plain = info[:1] == "/" and "%" not in info and "?" not in info and not script
    if is_plain and raw == (info + "?" + query if query else info) and raw.isascii():
        return info, raw.encode("ascii")
    whole = (script + info).encode("latin-1")
    if raw is None:
        # PEP 3333 has no name for it.  A call that was signed over another spelling is refused.
        path, sent_query = quote(whole, safe=_UNESCAPED), query
    else:
        if not raw.startswith("/"):  # RFC 9112 3.2.2, the absolute form
            raw = "/" + raw.partition("://")[2].partition("/")[2]
        path, _, sent_query = raw.partition("?")
    if unquote_to_bytes(path.encode("latin-1")) != whole or sent_query != query:
        # What was signed must be what the application routes.
        raise RequestError("the path or the query is not the one that was sent")
    try:
        routed = info.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the path is not UTF-8") from None
    target = path + "?" + query if query else path
    return routed, target.encode("latin-1")


def _cut_off() -> OSError:
    # Servers take this for a client that has gone: they close the connection and log no traceback.
    return BrokenPipeError(errno.EPIPE, "the call was ended: its token was revoked, frozen or expired")
