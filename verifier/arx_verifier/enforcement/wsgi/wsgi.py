# SPDX-License-Identifier: Apache-2.0
"""WSGI middleware: every request needs a grant before the application runs.  SPEC 8.4, 11.

``ArxWSGI`` maps a request to its tool by a table.  ``GuardedWSGI`` leaves that to a framework's adapter, which decides
at the view that the framework matched.  Both read the credential and the body once and bounded, and deny by default.
``wsgi_call`` ends a long response together with its grant.
"""

import atexit
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, Unpack

from arx_verifier.enforcement.asgi.asgi import MAX_BODY_BYTES
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, is_token
from arx_verifier.enforcement.base.routers import DEEP
from arx_verifier.enforcement.base.routes import LINE_BREAK, Meaning, RouteMap
from arx_verifier.enforcement.grants.grant_life import RECHECK_MS
from arx_verifier.enforcement.grants.running_calls import RunningCalls
from arx_verifier.enforcement.wsgi.wsgi_call import CALL_KEY, Environ, Start, WSGIApp, WSGICall
from arx_verifier.errors import REASONS, RequestError, SettingsError
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import GuardOptions, ServerOptions

WSGITools: TypeAlias = Mapping[str, str] | Callable[[Environ, bytes], Meaning | None]
"""``{"GET /orders/{order_id}": "orders.get"}``, or a function of the environ and the whole body."""

_PART: Final = 64 * 1024
_FRAMEWORKS: Final = {"flask", "django"}  # each shows its routes, and has an adapter

_log = logging.getLogger(__name__)


class GuardedWSGI:
    """A WSGI application whose views are decided by an adapter.  A call that none decides is refused.

    The verifier starts with the first call of each process and is closed when the process exits, so that a server may
    load the application before it forks.

    Args:
        app: The application; it finds the ``WSGICall`` in ``environ["arx.call"]``.
        verifier: The verifier.
        may_be_public: Whether a request without a token may reach the application; the adapter decides again at the
            view.  None for no request.
        max_body: Longest body that is read, bytes.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        recheck_ms: Longest time between two rechecks of the grant of a running response, ms; at least 1.
        options: ``limits``, ``effects``, and ``mode`` and ``until`` of a guard that watches; see ``GuardOptions``.

    Raises:
        SettingsError: A network or a limit is malformed, or ``recheck_ms`` is below 1.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        verifier: Verifier,
        may_be_public: Callable[[WSGICall], bool] | None = None,
        max_body: int = MAX_BODY_BYTES,
        trusted_proxies: Iterable[str] = (),
        recheck_ms: int = RECHECK_MS,
        **options: Unpack[GuardOptions],
    ) -> None:
        self.app, self._enforcement = app, Enforcement(verifier, **options)
        self.verifier = self._enforcement.verifier
        self._calls = RunningCalls(self.verifier, recheck_ms)
        self._may_be_public, self._max_body, self._peers = may_be_public, max_body, Peers(trusted_proxies)
        self._is_started = self._is_logged = False

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Handle one request; see PEP 3333."""
        forwarded = environ.get("HTTP_X_FORWARDED_FOR")
        peer = self._peers.of(environ.get("REMOTE_ADDR"), (forwarded,) if forwarded else ())
        call = WSGICall(self._enforcement, self._calls, environ, peer)
        return call.respond(self.app if self._admits(call, environ) else None, start_response)

    def start(self) -> None:
        """Start the verifier; for a server's hook after its fork.  The first call does it otherwise."""
        if not self._is_started:
            self._is_started = True
            self.verifier.start()
            atexit.register(self.verifier.close)

    def _admits(self, call: WSGICall, environ: Environ) -> bool:
        """Return whether the application runs."""
        screened = None
        try:
            screened = self._screen(call, environ)
            if screened is not None:
                call.read_target()
                self._require_shared_nonces(environ)
                self.start()
                call.take(screened, self._body(environ))
        except (RefusedCall, RequestError) as error:
            problem = RefusedCall.of(error)
            if CALL_KEY in environ or screened is None:
                call.refuse_unread(problem)
                return False
            call.take(screened, b"")
            if call.passes(problem):
                environ[CALL_KEY], call.is_unread = call, True
                return call.problem is None
            call.refuse_unread(problem)
        else:
            environ.pop("wsgi.early_hints", None)  # gunicorn's way to send a part of an answer past the checks
            environ[CALL_KEY] = call
            return self._judge(call, environ)
        return False

    def _screen(self, call: WSGICall, environ: Environ) -> Screened | RefusedCall | None:
        """Return the authenticated token; None for a request without one that may be for a public view.

        In watch mode also why there is none.
        """
        if CALL_KEY in environ:
            # One call proof covers one call: the inner application would decide on a used nonce.
            raise RefusedCall("tool_not_allowed", "this application is within another one that is guarded")
        try:
            # Before the body is read: a caller without a token of this service costs no more than its headers.
            screened = self._enforcement.screen(_authorization(environ))
            # The application has no use for it.  What collects the variables of an exception would find it there.
            del environ["HTTP_AUTHORIZATION"]
            return screened
        except RefusedCall as problem:
            if self._enforcement.watch is not None:
                # The application's own credentials pass, and no token that was made for ARx.
                if is_token(_authorization(environ)):
                    del environ["HTTP_AUTHORIZATION"]
                return problem.with_traceback(None)
            if REASONS[problem.code].status != 401 or self._may_be_public is None:
                raise
            call.read_target()
            if not self._may_be_public(call):
                raise
            call.unproven = problem
            return None

    def _judge(self, call: WSGICall, environ: Environ) -> bool:  # noqa: ARG002 - an adapter does it at the view
        return True

    def _require_shared_nonces(self, environ: Environ) -> None:
        """Refuse in a server of several processes whose verifiers share no nonces: each would accept a call once."""
        if environ.get("wsgi.multiprocess") and isinstance(self.verifier.nonces, MemoryNonces):
            watches = self._enforcement.watch is not None
            if not self._is_logged:
                self._is_logged = True
                _log.error(
                    "every call is refused%s: this server has several processes, and they share no nonces; name "
                    "`nonces` in the service file, or run one process",
                    " once the watch ends" if watches else "",
                )
            if watches:
                return
            raise RefusedCall("store_unavailable", "the processes of this service share no nonces")

    def _body(self, environ: Environ) -> bytes:
        """Read the body, and give the application the same bytes."""
        declared, stream = environ.get("CONTENT_LENGTH") or "", environ["wsgi.input"]
        if declared and not (declared.isascii() and declared.isdigit()):
            raise RefusedCall("malformed_request", "the Content-Length is not a number")
        if len(declared) > 18 or int(declared or 0) > self._max_body:
            raise self._too_large()
        # PEP 3333: without a length there is no body, unless the server says that it marks its end.
        ends = not declared and environ.get("wsgi.input_terminated", False)
        left = self._max_body + 1 if ends else int(declared or 0)
        body: bytes | bytearray = stream.read(min(_PART, left)) if left else b""
        if len(body) < left and body:  # nearly every body is read at once
            body = bytearray(body)
            while len(body) < left and (part := stream.read(min(_PART, left - len(body)))):
                body += part
        if len(body) > self._max_body:
            environ["wsgi.input"] = io.BufferedReader(_Rejoined(bytes(body), stream))  # in watch mode it is read again
            raise self._too_large()
        if len(body) < left and not ends:
            raise RefusedCall("malformed_request", "the body is shorter than its Content-Length")
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        whole = bytes(body)
        environ |= {"wsgi.input": io.BytesIO(whole), "CONTENT_LENGTH": str(len(whole)), "wsgi.input_terminated": True}
        return whole

    def _too_large(self) -> RefusedCall:
        return RefusedCall("malformed_request", f"the body is longer than {self._max_body} bytes", 413)


class ArxWSGI(GuardedWSGI):
    """WSGI middleware: the application runs with a grant, which is ``environ["arx"]``, or not at all.

    Args:
        app: The application, which shows no routes.
        verifier: The verifier; see ``GuardedWSGI``.
        tools: Maps routes to tools; a request without an entry is refused.
        public: The routes that need no token: ``GET /healthz``, or ``/healthz``.
        max_body: Longest body that is read, bytes.
        options: ``trusted_proxies``, ``recheck_ms``, ``limits``, and so on; see ``ServerOptions``.

    Raises:
        SettingsError: A route of ``tools`` or ``public`` is malformed; the application is one of Flask or Django, which
            have adapters of their own; a network or a limit is malformed; or ``recheck_ms`` is below 1.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        verifier: Verifier,
        tools: WSGITools,
        public: Iterable[str] = (),
        max_body: int = MAX_BODY_BYTES,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(
            app,
            verifier=verifier,
            may_be_public=lambda call: self._routes.is_public(call.scope),
            max_body=max_body,
            **options,
        )
        self._meaning: Callable[[Environ, bytes], Meaning | None] | None = None
        if isinstance(tools, Mapping):
            _require_no_routes(app)
            self._routes = RouteMap(tools, public)
        else:
            self._meaning, self._routes = tools, RouteMap({}, public)

    def _judge(self, call: WSGICall, environ: Environ) -> bool:
        meaning = self._meaning
        if meaning is None or self._routes.is_public(call.scope):
            return call.judge(lambda: self._routes(call.scope, call.body))
        return call.judge(lambda: meaning(environ, call.body))


class _Rejoined(io.RawIOBase):
    """A body of which a part was read, from its beginning."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._head.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _require_no_routes(app: WSGIApp) -> None:
    # The framework would route a request in its own way, to another view than the table's.
    inner: Any = app
    for _ in range(DEEP):
        inner = getattr(inner, "__self__", inner)  # of a method, such as app.wsgi_app
        kinds = {kind.__module__.partition(".")[0] for kind in type(inner).__mro__}
        if name := next(iter(kinds & _FRAMEWORKS), None):
            raise SettingsError(
                f"this application of {name} has routes of its own: expected arx_verifier.integrations.{name}, which "
                "decides at the view, or `tools` as a function"
            )
        inner = getattr(inner, "app", None)


def _authorization(environ: Environ) -> bytes:
    """Return the header as ``Enforcement.screen`` takes it."""
    value: bytes = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
    return value.replace(b",", b",%c" % LINE_BREAK)  # servers join several headers with a comma, which no token has
