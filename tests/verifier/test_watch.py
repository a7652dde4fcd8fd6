# SPDX-License-Identifier: Apache-2.0
"""Watch mode of the guards: calls that would be refused go on and are recorded; what is enforced all the same is."""

import asyncio
import contextlib
import json
import logging
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from arx_verifier import ArxError, Constraint, Rule, current_grant, protect
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.guard import current_watch
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.errors import AccessError, RevokedError, SettingsError
from arx_verifier.integrations.starlette import current_grant as grant_of
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.caveats import Caveat, read_proven
from arx_verifier.verification.watch import Watch, WatchedCall, read_watch
from tests.adapters.asgi_server import serving
from tests.servers import until

pytestmark = [pytest.mark.spec("12.7"), pytest.mark.servers]

ARGS = {"order_id": Constraint(glob="o-*"), "amount": Constraint(range=(1, 20))}
RULES = (Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}), Rule(tool="orders.refund", args=ARGS))
TOOLS = {"GET /orders/{order_id}": "orders.get", "POST /orders/{order_id}/refund": "orders.refund"}
TOOLS |= {"GET /events": "orders.events"}


def ahead(**span: float) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


def watching(**more: Any) -> dict[str, Any]:
    return {"mode": "watch", "until": ahead(days=2), **more}


class Service:
    """A guarded application behind a real server, and what it saw of each call."""

    def __init__(self, url: str, realm: UnsafeTestRealm, seen: list[dict[str, Any]]) -> None:
        self.url, self.realm, self.seen = url, realm, seen

    def call(self, method: str, path: str, caller: UnsafeCaller | None = None, **more: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.request(method, self.url + path, auth=caller, **more)

    def outcomes(self) -> list[tuple[str, str]]:
        return [(each.outcome, each.code) for each in self.realm.decisions.decisions if not each.counts]

    def counted(self) -> dict[tuple[str, bool], int]:
        self.realm.decisions.close()
        found: dict[tuple[str, bool], int] = {}
        for each in self.realm.decisions.decisions:
            for code, _, times in each.counts:
                found[code, each.watched] = found.get((code, each.watched), 0) + times
        return found


def note(seen: list[dict[str, Any]], held: Any, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    watched = held.get("arx.watch")
    seen.append({"arx": held.get("arx"), "watch": watched, "headers": headers, "body": body})
    return {"code": None if watched is None else watched.code}


def starlette_app(seen: list[dict[str, Any]]) -> Starlette:
    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(note(seen, request.scope, dict(request.headers), await request.body()))

    async def events(request: Request) -> StreamingResponse:
        note(seen, request.scope, dict(request.headers), b"")

        async def parts() -> Any:
            for _ in range(3000):
                yield b"data: 1\n\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(str(note(seen, socket.scope, {}, b"")["code"]))
        await socket.close()

    routes = [Route("/orders/{order_id}", answer), Route("/orders/{order_id}/refund", answer, methods=["POST"])]
    return Starlette(
        routes=[*routes, Route("/events", events), Route("/healthz", answer), WebSocketRoute("/live", live)]
    )


def wsgi_app(seen: list[dict[str, Any]]) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        headers = {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name[:5] == "HTTP_"}
        length = int(environ.get("CONTENT_LENGTH") or 0)
        found = note(seen, environ, headers, environ["wsgi.input"].read(length))
        known = environ["PATH_INFO"].startswith(("/orders/", "/events", "/healthz"))
        start_response("200 OK" if known else "404 Not Found", [("Content-Type", "application/json")])
        return [json.dumps(found).encode()]

    return application


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving_wsgi(app: Any) -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(30)


@contextlib.contextmanager
def serve(kind: str, realm: UnsafeTestRealm | None = None, **options: Any) -> Iterator[Service]:
    """Serve an application: by its own routes, by a table, and over WSGI."""
    realm, seen = realm or UnsafeTestRealm("orders"), []  # type: tuple[UnsafeTestRealm, list[dict[str, Any]]]
    if kind == "wsgi":
        guarded = ArxWSGI(wsgi_app(seen), verifier=realm.verifier, tools=TOOLS, public=["/healthz"], **options)
        with serving_wsgi(guarded) as port:
            yield Service(f"http://127.0.0.1:{port}", realm, seen)
        return
    inner: Any = starlette_app(seen)
    if kind == "table":
        app = inner

        async def inner(scope: Any, receive: Any, send: Any) -> None:  # shows no routes
            if scope["type"] == "http":
                await _run_unrouted(app, scope, receive, send)

    with serving(
        ArxMiddleware(inner, verifier=realm.verifier, tools=TOOLS, public=["/healthz"], **options),
        lifespan="on" if kind == "routes" else "auto",
    ) as port:
        yield Service(f"http://127.0.0.1:{port}", realm, seen)


async def _run_unrouted(app: Any, scope: Any, receive: Any, send: Any) -> None:
    inner = dict(scope)
    await app(inner, receive, send)


KINDS = ("routes", "table", "wsgi")


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_would_be_refused_goes_on_and_is_recorded(kind: str) -> None:
    """
    Without a token, with one of no key, beyond a rule, to a route without a tool: the application answers each.
    """
    with serve(kind, **watching()) as service:
        caller = service.realm.caller(*RULES)
        refund = {"json": {"amount": 50}}
        assert service.call("POST", "/orders/o-1/refund", caller, **refund).status_code == 200
        assert service.call("GET", "/orders/x-1", caller).status_code == 200
        assert service.call("GET", "/orders/o-1", caller).json() == {"code": None}
        for headers in ({}, {"authorization": "Bearer own"}, {"authorization": "Basic eDp5"}):
            assert service.call("GET", "/orders/o-1", headers=headers).status_code == 200
            assert service.seen[-1]["headers"].get("authorization") == headers.get("authorization")
        assert service.call("GET", "/nowhere", caller).status_code == 404  # the application's own answer
        assert service.call("GET", "/healthz").status_code == 200
        assert service.outcomes() == [
            ("would_refuse", "argument_not_allowed"),
            ("would_refuse", "argument_not_allowed"),
            ("allow", "ok"),
            ("would_refuse", "tool_not_allowed"),
        ]
        assert service.counted() == {("missing_token", True): 2, ("malformed", True): 1}
        first, _, allowed, bare, *_ = service.seen
        assert first["arx"] is None
        assert isinstance(first["watch"], WatchedCall)
        assert first["watch"].decision == service.realm.decisions.decisions[0].id
        assert allowed["arx"].tool == "orders.get"
        assert allowed["watch"] is None
        assert bare["watch"].code == "missing_token"


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_session_is_refused_while_the_service_watches(kind: str) -> None:
    """
    A kill and a freeze hold, also for a call that a rule would refuse, that has expired, or that has no single meaning.
    """
    with serve(kind, **watching(), max_body=1000) as service:
        caller, frozen = service.realm.caller(*RULES), service.realm.caller(*RULES, session="s-frozen")
        brief, made = service.realm.caller(*RULES, ttl_ms=1), now_ms()
        service.realm.epochs.kill("session:s-test")
        service.realm.epochs.freeze("session:s-frozen")
        until(lambda: now_ms() > made + 5)
        twice = {"content": b'{"amount":1,"amount":2}', "headers": {"content-type": "application/json"}}
        for path, who, more in (
            ("/orders/o-1/refund", caller, {"json": {"amount": 1}}),
            ("/orders/o-1/refund", caller, {"json": {"amount": 50}}),
            ("/orders/o-1/refund", caller, twice),
            ("/orders/o-1/refund", brief, {"json": {"amount": 1}}),
            ("/nowhere", caller, {"json": {}}),
            ("/orders/o-1/refund", caller, {"content": b"x" * 5000}),
        ):
            answer = service.call("POST", path, who, **more)
            assert (answer.status_code, answer.json()["code"]) == (401, "revoked"), (path, more)
        answer = service.call("GET", "/orders/x-1", frozen)
        assert answer.json()["code"] == "frozen"
        assert not service.seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_call_is_refused_while_the_service_watches(kind: str) -> None:
    """
    A call is accepted once, also one that a rule would refuse.
    """
    with serve(kind, **watching()) as service:
        caller = service.realm.caller(*RULES).delegate("test/sub", *RULES)
        request = httpx.Request("GET", service.url + "/orders/x-1")
        headers = {"authorization": caller(request).headers["authorization"]}
        assert service.call("GET", "/orders/x-1", headers=headers).status_code == 200
        assert service.call("GET", "/orders/x-1", headers=headers).json()["code"] == "replayed"
        assert len(service.seen) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_of_arx_reaches_the_application(kind: str) -> None:
    """
    Tokens are taken off also of a call that goes on: one of another key, and one beside the application's own.
    """
    with serve(kind, **watching()) as service:
        stranger = UnsafeTestRealm("orders").caller(*RULES)
        signed = stranger(httpx.Request("GET", service.url + "/orders/o-1")).headers["authorization"]
        assert service.call("GET", "/orders/o-1", headers={"authorization": signed}).status_code == 200
        assert service.seen[-1]["watch"].code == "bad_signature"
        service.call("GET", "/orders/o-1", headers={"authorization": f"bearer   {signed[7:]}"})
        both = [("authorization", "Bearer own"), ("authorization", signed)]
        service.call("GET", "/orders/o-1", headers=both)
        assert len(service.seen) == 3
        assert "arx1_" not in str([each["headers"] for each in service.seen])


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_cannot_be_read_for_a_decision_reaches_the_application_whole(kind: str) -> None:
    """
    Longer than the guard reads, with and without a length, and JSON with a member twice.
    """
    with serve(kind, **watching(), max_body=1000) as service:
        caller = service.realm.caller(*RULES)
        long = b"x" * 5000
        for who in (caller, None):
            assert service.call("POST", "/orders/o-1/refund", who, content=long).status_code == 200
            assert service.seen[-1]["body"] == long
        twice = b'{"amount":1,"amount":2}'
        headers = {"content-type": "application/json"}
        assert service.call("POST", "/orders/o-1/refund", caller, content=twice, headers=headers).status_code == 200
        assert service.seen[-1]["body"] == twice
        assert not any(each["arx"] for each in service.seen)
        if kind != "wsgi":  # wsgiref reads no chunks
            parts = iter([b"x" * 600, b"y" * 600, b"z" * 600])
            assert service.call("POST", "/orders/o-1/refund", content=parts).status_code == 200
            assert service.seen[-1]["body"] == b"x" * 600 + b"y" * 600 + b"z" * 600
        assert ("malformed_request", True) in service.counted()


def test_a_websocket_opens_without_a_token_and_not_after_a_kill() -> None:
    """
    By its route and without one, where the application's own refusal is the answer; a killed caller opens none.
    """
    realm, seen = UnsafeTestRealm("orders"), list[dict[str, Any]]()
    app = ArxMiddleware(starlette_app(seen), verifier=realm.verifier, tools=TOOLS, **watching())

    def opened(path: str, who: UnsafeCaller | None) -> list[dict[str, Any]]:
        request = httpx.Request("GET", "http://127.0.0.1" + path)
        headers = [] if who is None else [(b"authorization", who(request).headers["authorization"].encode())]
        scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "extensions": {"websocket.http.response": {}}, "subprotocols": []}
        came, sent = [{"type": "websocket.connect"}], list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            return came.pop() if came else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        return sent

    caller = realm.caller(*RULES)
    assert [each.get("text") for each in opened("/live", None)] == [None, "missing_token", None]
    assert [each.get("text") for each in opened("/live", caller)] == [None, "tool_not_allowed", None]
    for path in ("/nowhere", "/live"):
        (first, *_) = opened(path, caller)
        assert first["type"] in ("websocket.close", "websocket.http.response.start"), path
        realm.epochs.kill("session:s-test")
    assert len(seen) == 2


def test_a_kill_ends_a_running_answer_that_has_no_grant() -> None:
    """
    A stream of a call that would be refused ends with a kill of its token, as that of an allowed one.
    """
    with serve("routes", **watching()) as service:
        caller = service.realm.caller(*RULES)
        with (
            httpx.Client(trust_env=False, timeout=60) as client,
            client.stream("GET", service.url + "/events", auth=caller) as answer,
        ):
            parts = answer.iter_raw()
            assert next(parts)
            service.realm.epochs.kill("session:s-test")
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in parts:
                    pass
        until(lambda: ("end", "revoked") in service.outcomes())


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_that_has_ended_enforces(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    With ``until`` in the past the guard starts, warns, and refuses; and so does a running one once it is reached.
    """
    with caplog.at_level(logging.WARNING), serve(kind, mode="watch", until=ahead(days=-1)) as service:
        assert service.call("GET", "/orders/o-1").status_code == 401
        assert service.counted() == {("missing_token", False): 1}
    assert "calls are refused" in caplog.text
    realm = UnsafeTestRealm("orders")
    end = now_ms() + 3_000
    soon = datetime.fromtimestamp(end / 1000, UTC)
    with serve(kind, realm, mode="watch", until=soon) as service:
        assert service.call("GET", "/orders/o-1").status_code == 200
        until(lambda: now_ms() > end)
        assert service.call("GET", "/orders/o-1").status_code == 401


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "watch"},
        {"mode": "watch", "until": "2026-12-20T00:00:00"},
        {"mode": "watch", "until": "soon"},
        {"mode": "watch", "until": 1_800_000_000},
        {"mode": "observe", "until": "2026-12-20T00:00:00Z"},
        {"until": "2026-12-20T00:00:00Z"},
        {"mode": "watch", "until": "2026-12-20T00:00:00Z", "record": "everything"},
        {"mode": "watch", "until": "2026-12-20T00:00:00Z", "group_by": "x-client"},
        {"mode": "watch", "until": "2026-12-20T00:00:00Z", "record": "arguments", "group_by": "Authorization"},
    ],
)
def test_a_watch_needs_its_end_and_no_other_words(given: dict[str, Any]) -> None:
    """
    A guard with a wrong argument does not start.
    """
    with pytest.raises(SettingsError):
        read_watch(**given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_of_more_than_thirty_days_does_not_start(kind: str) -> None:
    """
    31 days ahead is refused at the start, 30 are not.
    """
    with (
        pytest.raises(SettingsError, match="at most 30 days ahead, got 31"),
        serve(kind, mode="watch", until=ahead(days=31)),
    ):
        pass
    assert read_watch("watch", ahead(days=30))


def test_no_word_of_a_token_asks_for_a_watch() -> None:
    """
    A token with a caveat for it is refused as one with an unknown caveat, by a guard that enforces.
    """
    with serve("table") as service:
        caller = service.realm.caller(*RULES)
        for caveat in ({"watch": True}, {"mode": "watch"}, {"until": "2027-01-01T00:00:00Z"}):
            with pytest.raises(ArxError):
                read_proven(json.dumps(caveat, separators=(",", ":")).encode())
        assert service.call("GET", "/orders/x-1", caller).status_code == 403
        headers = {"x-arx-mode": "watch", "arx-watch": "1", "x-arx-watch": "1"}
        assert service.call("GET", "/orders/x-1", caller, headers=headers).status_code == 403
        assert not service.seen


def test_no_budget_is_drawn_on_by_a_call_that_would_be_refused() -> None:
    """
    A budget refuses nothing while the service watches, and what a rule would refuse costs nothing.
    """
    realm = UnsafeTestRealm("orders", costs={"orders.*": {"calls": 1}})
    verifier = realm.verifier.watching(Watch(now_ms() + 60_000))
    caller = realm.caller(*RULES, budget={"calls": 1})

    def decide(order: str) -> Any:
        request = AccessRequest("orders.get", {"order_id": order}, now_ms())
        return verifier.decide(caller.token("orders.get", order_id=order), request)

    assert decide("x-1").watch.of_rules
    assert decide("o-1").grant.remaining == {"calls": "0"}
    late = decide("o-1")
    assert (late.outcome, late.code, late.grant) == ("would_refuse", "budget_exhausted", None)
    assert late.watch.of_rules


def test_credentials_go_with_calls_that_a_rule_alone_would_refuse() -> None:
    """
    ``of_rules`` is false without a token, for a token of another service, and for one that is out of time or unproven.
    """
    realm, other = UnsafeTestRealm("orders"), UnsafeTestRealm("orders")
    watch = Watch(now_ms() + 60_000)
    verifier = realm.verifier.watching(watch)
    brief, made = realm.caller(*RULES, ttl_ms=1), now_ms()
    until(lambda: now_ms() > made + 5)
    request = AccessRequest("orders.get", {"order_id": "x-1"}, now_ms())
    args = {"order_id": "x-1"}
    caller = realm.caller(*RULES)
    assert verifier.decide(caller.token("orders.get", **args), request).watch.of_rules
    for token, code in (
        (other.caller(*RULES).token("orders.get", **args), "bad_signature"),
        (brief.token("orders.get", **args), "expired"),
        (caller.token("orders.get", order_id="o-1"), "proof_invalid"),
        (caller.macaroon.attenuate(Caveat(aud=("billing",))).encode(), "wrong_audience"),
    ):
        decision = verifier.decide(token, request)
        assert (decision.outcome if decision.sequence else "would_refuse", decision.code) == ("would_refuse", code)
        assert not decision.watch.of_rules
    nowhere = verifier.decide(caller.token(""), AccessRequest("", {}, now_ms()))
    assert not nowhere.watch.of_rules


def test_a_protected_function_runs_without_a_grant() -> None:
    """
    ``current_grant()`` raises why it would be refused, and ``current_watch()`` is the call.
    """
    realm = UnsafeTestRealm("orders")
    found: list[Any] = []

    @protect(realm.verifier, "orders.get", mode="watch", until=ahead(days=1))
    def get(order_id: str) -> str:
        found.append(current_watch())
        if current_watch() is not None:
            with pytest.raises(AccessError):
                current_grant()
        return order_id

    caller = realm.caller(*RULES)
    assert get(order_id="x-1", arx_token=caller.token("orders.get", order_id="x-1")) == "x-1"
    assert found[-1].code == "argument_not_allowed"
    assert get(order_id="o-1", arx_token=caller.token("orders.get", order_id="o-1")) == "o-1"
    assert found[-1] is None
    realm.epochs.kill("session:s-test")
    with pytest.raises(RevokedError):
        get(order_id="x-1", arx_token=caller.token("orders.get", order_id="x-1"))


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_recorded_on_demand_without_secrets(kind: str) -> None:
    """
    Each call, with or without a token; names that look like secrets are left out at any depth; callers are grouped.
    """
    with serve(kind, **watching(record="arguments", group_by="X-Client")) as service:
        caller = service.realm.caller(*RULES)
        body = {
            "amount": 7,
            "password": "p",
            "card": {"apiKey": "k", "cvv": 1, "name": "ann"},
            "list": [{"token": "t"}],
            "form": {
                **dict.fromkeys(("password1", "password_confirmation", "passwordHash", "passwd2", "pass"), "p"),
                **dict.fromkeys(("auth", "jwt", "idJwt"), "j"),
                "author": "ann",
            },
        }
        for who in (caller, None):
            sent = {"headers": {"x-client": "app-7"}}
            assert service.call("POST", "/orders/o-1/refund", who, json=body, **sent).status_code == 200
        recorded = [each for each in service.realm.decisions.decisions if not each.counts]
        expected = {"amount": 7, "card": {"name": "ann"}, "list": [{}], "form": {"author": "ann"}, "order_id": "o-1"}
        assert [json.loads(each.arguments or b"") for each in recorded] == [expected, expected]
        assert [(each.code, each.group) for each in recorded] == [
            ("argument_not_allowed", None),
            ("missing_token", "app-7"),
        ]
        assert not service.counted()
        assert [each.outcome for each in recorded] == ["would_refuse"] * 2
    with serve(kind, **watching()) as service:
        service.call("POST", "/orders/o-1/refund", service.realm.caller(*RULES), json=body)
        assert service.realm.decisions.decisions[0].arguments is None


def test_callers_without_a_token_are_grouped_by_their_address() -> None:
    """
    ``group_by`` may name the address.
    """
    with serve("routes", **watching(record="arguments", group_by="address")) as service:
        service.call("GET", "/orders/o-1")
        assert service.realm.decisions.decisions[0].group == "127.0.0.1"


@pytest.mark.slow
def test_a_grant_of_starlette_raises_in_a_call_without_one() -> None:
    """
    ``current_grant`` of the adapter raises the refusal.
    """
    scope = {"type": "http", "path": "/", "headers": []}
    realm = UnsafeTestRealm("orders")
    decision = realm.verifier.watching(Watch(now_ms() + 60_000)).refuse(
        "missing_token", AccessRequest("", {}, now_ms())
    )
    with pytest.raises(ArxError) as raised:
        grant_of(Request(scope | {"arx.watch": decision.watch}))
    assert raised.value.code == "missing_token"
