# SPDX-License-Identifier: Apache-2.0
"""The WSGI middleware: nothing reaches the application without a grant, and an answer ends with its grant."""

import contextlib
import gc
import http.client
import io
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.enforcement.wsgi.wsgi_call import CALL_KEY
from arx_verifier.errors import ArxError, RequestError, RevokedError, SettingsError
from arx_verifier.request import HttpCall
from arx_verifier.revocation.epoch import Lease
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.grant import Grant
from tests.servers import until
from tests.verifier.serving import TOOLS, Realm

pytestmark = pytest.mark.spec("8.4")

SESSION = "session:s-aaaaaaaaaaaaaaaa"
CALL = Caveat(require=("call",))


@pytest.fixture
def realm() -> Realm:
    return Realm()


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Return what it saw."""
    grant: Grant = environ["arx"]
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([grant.tool, grant.agent, body.decode()]).encode()]


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return dict(json.loads(self.body))


def environ_of(target: str, token: str | None = None, method: str = "GET", body: bytes = b"", **more: Any) -> Any:
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": target,
    }
    environ |= {"wsgi.input": io.BytesIO(body), "REMOTE_ADDR": "10.0.0.7", "CONTENT_TYPE": "application/json"}
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    if token is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    setup_testing_defaults(environ)
    return {name: value for name, value in (environ | more).items() if value is not None}


def run(app: Any, environ: dict[str, Any]) -> Answered:
    """One request by the rules of PEP 3333, which ``wsgiref`` checks on both sides of the middleware."""
    heads: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        heads.append((status, headers))
        return written.append

    chunks = app(environ, start_response)
    try:
        body = b"".join([*chunks])
    finally:
        chunks.close()
    status, headers = heads[-1]
    return Answered(int(status[:3]), {name.lower(): value for name, value in headers}, b"".join(written) + body)


def ask(realm: Realm, target: str, *args: Any, app: Any = application, **more: Any) -> Answered:
    options = {"tools": TOOLS} | more.pop("options", {})
    guarded = ArxWSGI(app, verifier=realm.verifier, **options)
    return run(validator(guarded), environ_of(target, *args, **more))


def test_an_allowed_request_reaches_the_application_with_its_grant(realm: Realm) -> None:
    """The application sees the grant and exactly the bytes that were checked."""
    body = b'{ "amount": 5 }'
    result = ask(realm, "/orders/A-1/refund", realm.token().encode(), "POST", body)
    assert (result.status, json.loads(result.body)) == (200, ["orders.refund", "acme/support", body.decode()])
    assert realm.codes == ["ok"]


def test_a_refused_argument_is_shown_in_full(realm: Realm) -> None:
    """The answer is the same problem as that of the ASGI middleware."""
    result = ask(realm, "/orders/B-1/refund", realm.token().encode(), "POST", b'{"amount":50}')
    problem = result.problem
    assert (result.status, problem["code"], problem["retry"]) == (403, "argument_not_allowed", "no")
    assert problem["decision"] == realm.sink.decisions[-1].id
    assert {failure["came"] for failure in problem["failures"]} == {'"B-1"', "50"}
    assert result.headers["www-authenticate"].startswith('Bearer realm="acme", error="insufficient_scope"')
    assert ask(realm, "/orders/A-1/refund", realm.token().encode(), "HEAD").body == b""


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "missing_token"),
        ({"HTTP_AUTHORIZATION": "Basic YTpi"}, "missing_token"),
        ({"HTTP_AUTHORIZATION": "Bearer arx1_AAAA"}, "malformed"),
        ({"HTTP_AUTHORIZATION": "Bearer a,Bearer b"}, "malformed_request"),  # two headers, as servers join them
    ],
)
def test_nothing_is_read_of_a_stranger(realm: Realm, more: dict[str, str], code: str) -> None:
    """Neither the body nor the application is touched before a token of this service is proven."""

    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

    def unreached(*_: Any) -> Any:
        raise AssertionError("the application ran")

    environ = environ_of("/orders/A-1", None, "POST", b"{}", **more) | {"wsgi.input": Unread()}
    result = run(ArxWSGI(unreached, verifier=realm.verifier, tools=TOOLS), environ)
    assert result.problem["code"] == code
    assert "ok" not in realm.codes


@pytest.mark.parametrize("target", ["/", "/orders", "/orders/A-1/", "/nowhere"])
def test_what_the_table_does_not_name_is_refused(realm: Realm, target: str) -> None:
    result = ask(realm, target, realm.token().encode())
    assert (result.status, result.problem["code"]) == (403, "tool_not_allowed")


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("/orders//A-1", {}),
        ("/orders/../A-1", {}),
        ("/orders/A-1", {"PATH_INFO": "/orders/A-2"}),  # a path that was not signed
        ("/orders/A-1?x=1", {"QUERY_STRING": "x=2"}),
        ("/orders/A%2F1", {"PATH_INFO": "/orders/A/1"}),
        ("/orders/%ff", {"PATH_INFO": "/orders/\xff"}),
        ("/orders/A-1?x=1&x=2", {}),
        ("/orders/A-1#x", {"PATH_INFO": "/orders/A-1"}),
        ("*", {"PATH_INFO": "*"}),
        ("/orders/A-1", {"CONTENT_LENGTH": "9", "wsgi.input": io.BytesIO(b"{}")}),
        ("/orders/A-1", {"CONTENT_LENGTH": "+2", "wsgi.input": io.BytesIO(b"{}")}),
        ("/orders/A-1", {"CONTENT_LENGTH": "2", "wsgi.input": io.BytesIO(b"{}")}),  # a GET with a body
    ],
)
def test_a_request_with_two_meanings_is_refused(realm: Realm, target: str, more: dict[str, Any]) -> None:
    environ = environ_of(target, realm.token().encode(), **more)
    result = run(ArxWSGI(application, verifier=realm.verifier, tools=TOOLS), environ)
    assert (result.status, result.problem["code"]) == (400, "malformed_request")


def test_the_body_is_bounded_with_and_without_a_length(realm: Realm) -> None:
    """A chunked body, whose end the server marks, is read to its end and no further than the limit."""
    target, token, body = "/orders/A-1/refund", realm.token().encode(), b'{"amount": 5}'
    chunked = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert ask(realm, target, token, "POST", body, **chunked).status == 200
    for more in ({}, chunked):
        result = ask(realm, target, token, "POST", body, options={"max_body": 12}, **more)
        assert (result.status, result.problem["code"]) == (413, "malformed_request")
    without = ask(realm, target, token, "POST", body, CONTENT_LENGTH=None)  # PEP 3333: then there is no body
    assert without.problem["code"] == "argument_not_allowed"


def test_a_proof_covers_the_target_as_it_was_sent(realm: Realm) -> None:
    """Escapes, the query and a mounted application; without a raw target, the path in its usual spelling."""
    signer = CallSigner(realm.token(CALL), "orders")

    def signed(target: bytes, **more: Any) -> Answered:
        fields = http_fields(HttpCall("GET", target, sha256(b"").digest()))
        token = signer.sign(fields, time.time_ns() // 1_000_000)
        raw, _, query = target.decode().partition("?")
        environ = environ_of(raw, token, **({"QUERY_STRING": query, "RAW_URI": target.decode()} | more))
        return run(ArxWSGI(application, verifier=realm.verifier, tools=TOOLS), environ)

    path = "/orders/\xc3\xa9 1"  # the bytes of UTF-8, one character each
    assert signed(b"/orders/%C3%A9%201", PATH_INFO=path).status == 200
    assert signed(b"/orders/%c3%a9%201", PATH_INFO=path).status == 200
    assert signed(b"/orders/%C3%A9%201", PATH_INFO=path, RAW_URI=None).status == 200
    assert signed(b"/orders/%c3%a9%201", PATH_INFO=path, RAW_URI=None).problem["code"] == "proof_invalid"
    assert signed(b"/orders/A-1", RAW_URI=None, REQUEST_URI="/orders/A-1").status == 200
    assert signed(b"/orders/A-1", RAW_URI="http://a.example/orders/A-1").status == 200
    assert signed(b"/api/orders/A-1", PATH_INFO="/orders/A-1", SCRIPT_NAME="/api").status == 200
    assert signed(b"/orders/A-1", PATH_INFO="/A-1", SCRIPT_NAME="/orders").problem["code"] == "tool_not_allowed"
    assert signed(b"/orders/A-1", RAW_URI="/orders/A-1?").status == 200


def test_tools_may_be_a_function_of_the_environ(realm: Realm) -> None:
    def meaning(environ: dict[str, Any], body: bytes) -> tuple[str, dict[str, Any]] | None:
        if environ["PATH_INFO"] == "/odd":
            raise RequestError("odd")
        return ("orders.get", {}) if body == b"{}" else None

    token, options = realm.token().encode(), {"tools": meaning}
    assert ask(realm, "/any", token, "POST", b"{}", options=options).status == 200
    assert ask(realm, "/any", token, "POST", b"[]", options=options).problem["code"] == "tool_not_allowed"
    assert ask(realm, "/odd", token, options=options).problem["code"] == "malformed_request"


def test_a_public_route_needs_no_token(realm: Realm) -> None:
    """
    It runs without a decision, with or without a token; no other route does, nor one with two meanings.
    """

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ.get("arx", "no context").encode()]

    options = {"public": ["/healthz", "POST /hooks"]}
    for token in (None, realm.token().encode()):
        assert ask(realm, "/healthz", token, app=app, options=options).body == b"no context"
        assert ask(realm, "/hooks", token, "POST", b"{}", app=app, options=options).status == 200
    for target, method in (("/orders/A-1", "GET"), ("/healthz", "POST"), ("/healthz/", "GET")):
        assert ask(realm, target, None, method, app=app, options=options).problem["code"] == "missing_token"
    assert ask(realm, "/./healthz", None, app=app, options=options).problem["code"] == "malformed_request"
    assert "ok" not in realm.codes


def test_one_application_within_another_is_refused(realm: Realm) -> None:
    inner = ArxWSGI(application, verifier=realm.verifier, tools=TOOLS)
    result = ask(realm, "/orders/A-1", realm.token().encode(), app=inner)
    assert result.problem["code"] == "tool_not_allowed"


def test_several_processes_must_share_their_nonces(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """A server that says that it has several is refused where each would accept a call once; the log says why, once."""
    for _ in range(2):
        result = ask(realm, "/orders/A-1", realm.token().encode(), **{"wsgi.multiprocess": True})
        assert (result.status, result.problem["code"]) == (503, "store_unavailable")
    assert "`nonces`" in caplog.records[0].message


def test_no_hint_leaves_before_an_answer(realm: Realm) -> None:
    """gunicorn's early hints would send headers of the application past the checks."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str("wsgi.early_hints" in environ).encode()]

    more = {"wsgi.early_hints": print}
    assert ask(realm, "/orders/A-1", realm.token().encode(), app=app, **more).body == b"False"


def test_an_error_of_the_application_is_the_servers(realm: Realm) -> None:
    def broken(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(realm, "/orders/A-1", realm.token().encode(), app=broken)


def test_a_head_may_be_replaced_before_it_left(realm: Realm) -> None:
    """PEP 3333: with ``exc_info``, until the first byte; and ``write`` is guarded as the iterable is."""

    def mended(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError("half-way")
        except ValueError as error:
            write = start_response("500 Sorry", [("Content-Type", "text/plain")], (type(error), error, None))
        write(b"so")
        return [b"rry"]

    result = ask(realm, "/orders/A-1", realm.token().encode(), app=mended)
    assert (result.status, result.body) == (500, b"sorry")


class Working:
    """An application that is killed while it works, and goes on once ``on_end`` was called."""

    def __init__(self, realm: Realm, answer: Callable[[Any], Iterable[bytes]]) -> None:
        self.realm, self.answer, self.ended = realm, answer, list[ArxError]()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        over = threading.Event()
        environ["arx"].on_end(lambda error: (self.ended.append(error), over.set()))
        self.realm.epochs.kill(SESSION)
        assert over.wait(60)
        return self.answer(lambda: start_response("200 OK", [("Content-Type", "text/plain")]))


def written(start: Any) -> Iterable[bytes]:
    start()(b"secret")
    return []


def raised(start: Any) -> Iterable[bytes]:
    raise ZeroDivisionError


def generated(start: Any) -> Iterable[bytes]:
    start()
    yield b""
    yield b"secret"


@pytest.mark.spec("11")
@pytest.mark.parametrize("answer", [lambda start: start() and [b"secret"], written, raised, generated])
def test_a_kill_before_the_first_byte_is_answered(realm: Realm, answer: Any) -> None:
    """
    Nothing of the answer leaves; the caller reads the reason, and a second record says that the work was ended.
    """
    app = Working(realm, answer)
    result = ask(realm, "/orders/A-1", realm.token().encode(), app=app, options={"recheck_ms": 1})
    assert (result.status, result.problem["code"]) == (401, "revoked")
    assert [error.code for error in app.ended] == ["revoked"]
    assert realm.codes == ["ok", "revoked"]


@pytest.mark.spec("11")
@pytest.mark.parametrize("answers", [True, False], ids=["answers 500", "raises"])
def test_a_call_that_fails_at_its_checkpoint_is_refused(realm: Realm, answers: bool) -> None:
    """The caller gets the reason code, and not the framework's 500, also before the grant is rechecked by itself."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        realm.epochs.kill(SESSION)
        try:
            environ["arx"].recheck()
        except RevokedError:
            if not answers:
                raise
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"failed"]

    result = ask(realm, "/orders/A-1", realm.token().encode(), app=app, options={"recheck_ms": 2_000})
    assert (result.status, result.problem["code"]) == (401, "revoked")
    assert realm.codes == ["ok", "revoked"]


@pytest.mark.spec("11")
def test_an_open_answer_is_cut_before_its_next_byte(realm: Realm) -> None:
    """
    After a kill no byte leaves, not even the end of the body; the application's generator is closed.
    """
    closed: list[str] = []

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"first"
            realm.epochs.kill(SESSION)
            until(lambda: environ["arx"].ended)
            yield b"second"
        finally:
            closed.append("closed")

    guarded = ArxWSGI(stream, verifier=realm.verifier, tools=TOOLS, recheck_ms=1)
    chunks = guarded(environ_of("/orders/A-1", realm.token().encode()), lambda *_: lambda _: None)
    assert next(iter(chunks)) == b"first"
    with pytest.raises(BrokenPipeError):
        next(iter(chunks))
    chunks.close()  # type: ignore[attr-defined]
    assert closed == ["closed"]
    assert realm.codes == ["ok", "revoked"]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(app: Any) -> Iterator[http.client.HTTPConnection]:
    """A real server of the standard library, and a connection to it."""
    with Server(("127.0.0.1", 0), Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        try:
            yield connection
        finally:
            connection.close()
            server.shutdown()
            thread.join()


@pytest.mark.servers
def test_a_server_cuts_the_answer_of_a_killed_call(realm: Realm) -> None:
    """
    Over a socket the client gets less than was announced; the next call gets the reason.
    """

    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000000000")])
        while True:
            yield b"x" * 1000

    header = {"Authorization": f"Bearer {realm.token().encode()}"}
    with serving(ArxWSGI(stream, verifier=realm.verifier, tools=TOOLS, recheck_ms=1)) as connection:
        connection.request("GET", "/orders/A-1", headers=header)
        answer = connection.getresponse()
        assert answer.read(5) == b"xxxxx"
        realm.epochs.kill(SESSION)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        connection.close()
        connection.request("GET", "/orders/A-1", headers=header)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (401, "revoked")


@pytest.mark.spec("11")
def test_a_call_that_has_sent_nothing_outlives_a_lapse(realm: Realm) -> None:
    """
    While the view is too old the work goes on; its answer is refused only if the view is still too old by then.
    """
    lease = realm.epochs._state.lease
    for later, status in ((lease, 200), (Lease(0, 0, 0), 503)):

        def app(environ: Any, start_response: Any, later: Any = later) -> list[bytes]:
            realm.epochs._state.lease = Lease(0, 0, 0)
            environ["arx.call"].running.look()
            assert environ["arx"].ended is None
            realm.epochs._state.lease = later
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"done"]

        result = ask(realm, "/orders/A-1", realm.token().encode(), app=app, options={"recheck_ms": 1})
        assert result.status == status


def test_a_file_goes_through_the_checks(realm: Realm) -> None:
    """A server's own way of sending a file would send it whole."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 100), 10)

    environ = environ_of("/orders/A-1", realm.token().encode()) | {"wsgi.file_wrapper": FileWrapper}
    guarded = ArxWSGI(app, verifier=realm.verifier, tools=TOOLS)
    chunks = guarded(dict(environ), lambda *_: print)
    assert not isinstance(chunks, FileWrapper)
    chunks.close()  # type: ignore[attr-defined]
    assert run(guarded, environ).body == b"x" * 100


def test_a_call_that_is_over_needs_no_collector(realm: Realm) -> None:
    """Nothing of it refers to itself: a service that answers for hours holds no memory of old calls."""
    seen: list[weakref.ref[Any]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(weakref.ref(environ[CALL_KEY]))
        return application(environ, start_response)

    gc.disable()
    try:
        assert ask(realm, "/orders/A-1", realm.token().encode(), app=app).status == 200
        assert ask(realm, "/orders/A-1", app=app).status == 401
        assert [one() for one in seen] == [None]
    finally:
        gc.enable()


def test_one_thread_rechecks_while_there_are_calls(realm: Realm) -> None:
    """It ends by itself, and begins again."""

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "arx-recheck"]

    for _ in range(2):
        until(lambda: not threads())
        assert ask(realm, "/orders/A-1", realm.token().encode(), options={"recheck_ms": 20}).status == 200
        assert len(threads()) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": {"/orders": "orders.get"}}, "not a route"),
        ({"recheck_ms": 0}, "recheck_ms"),
        ({"trusted_proxies": ["x"]}, "network"),
    ],
)
def test_a_mistake_in_the_settings_raises_at_once(realm: Realm, options: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ArxWSGI(application, verifier=realm.verifier, **({"tools": TOOLS} | options))


@pytest.mark.spec("6.1")
def test_the_callers_address_is_found_behind_a_proxy(realm: Realm) -> None:
    token, more = realm.token().encode(), {"HTTP_X_FORWARDED_FOR": "192.0.2.9, 10.0.0.8"}
    ask(realm, "/orders/A-1", token, **more)
    ask(realm, "/orders/A-1", token, options={"trusted_proxies": ["10.0.0.0/8"]}, **more)
    assert [decision.peer for decision in realm.sink.decisions] == ["10.0.0.7", "192.0.2.9"]
