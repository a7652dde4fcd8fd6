# SPDX-License-Identifier: Apache-2.0
"""The adapter of Starlette: the example of its page, behind uvicorn, asked over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from arx_verifier import ArxMiddleware, Constraint, Rule, SettingsError
from arx_verifier.integrations.starlette import current_grant, guard
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.serving import connect, example, served

REFUND = Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)})
GET = Rule(tool="orders.get", args={"order_id": "o-1"})


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@pytest.fixture
def orders(realm: UnsafeTestRealm, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the page's application."""
    app = example("starlette", tmp_path)["make_app"](realm.verifier)
    with served(app) as address, httpx.Client(base_url=address) as http:
        yield http


def test_a_call_within_the_token_runs(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The endpoint gets its grant, also for a sub-agent that the token was delegated to."""
    worker = realm.caller(GET).delegate("test/worker")
    answer = orders.get("/orders/o-1", auth=worker)
    assert answer.json() == {"order": "o-1", "for": "test/agent", "by": "test/worker"}
    assert orders.post("/orders/o-1/refund", json={"amount": 15}, auth=realm.caller(REFUND)).json() == {"refunded": 15}


def test_a_call_out_of_bounds_is_refused(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A caller reads the code; a kill is in force for the next call."""
    agent = realm.caller(REFUND)
    assert orders.post("/orders/o-1/refund", json={"amount": 50}, auth=agent).json()["code"] == "argument_not_allowed"
    assert orders.get("/orders/o-1", auth=agent).json()["code"] == "tool_not_allowed"
    realm.epochs.kill("agent:test/agent")
    assert orders.post("/orders/o-1/refund", json={"amount": 5}, auth=agent).json()["code"] == "revoked"


def test_public_routes_need_no_token(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A token changes nothing there, and no other route answers without one."""
    for auth in (None, realm.caller(GET), UnsafeTestRealm("other").caller(GET)):
        for method in ("GET", "HEAD"):
            assert orders.request(method, "/healthz", auth=auth).status_code == 200
    for path in ("/orders/o-1", "/nothing", "/healthz/"):
        assert orders.get(path).json()["code"] == "missing_token", path
    assert orders.post("/healthz").json()["code"] == "missing_token"


def test_names_of_routes_and_their_queries(realm: UnsafeTestRealm) -> None:
    """A name stands for each method of its route; the query of a POST has the arguments that it names."""
    ran: list[Any] = []

    async def order(request: Request) -> Response:
        ran.append((request.method, dict(request.query_params), current_grant(request).tool))
        return PlainTextResponse("order")

    class Every(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            ran.append("every")
            return PlainTextResponse("")

    inner = Starlette(routes=[Route("/", order, methods=["GET", "POST"], name="one"), Route("/every", Every)])
    app = Starlette(routes=[Mount("/orders/{order_id}", app=inner)])
    with pytest.raises(SettingsError, match="takes every method"):
        guard(app, realm.verifier, tools={"Every": "orders.every"})
    guard(app, realm.verifier, tools={"one?{full}": "orders.one"}, public=["/orders/{order_id}/every"])
    agent = realm.caller(Rule(tool="orders.one"))
    with served(app) as address, httpx.Client(base_url=address) as http:
        assert http.get("/orders/7/?full=yes", auth=agent).status_code == 200
        assert http.post("/orders/7/?full=yes", json={"x": 1}, auth=agent).status_code == 200
        assert http.post("/orders/7/?x=1", auth=agent).json()["code"] == "malformed_request"
        assert http.put("/orders/7/?full=yes", auth=agent).json()["code"] == "tool_not_allowed"
        assert http.get("/orders/7/every").status_code == 200
        assert http.post("/orders/7/every").status_code == 401
    query = {"full": "yes"}
    assert ran == [("GET", query, "orders.one"), ("POST", query, "orders.one"), "every"]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that shows no routes, and sends back what it receives; it is ended by a kill alone."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": f"{scope['arx'].tool} {message['text']}"})


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(f"{current_grant(websocket).tool} {data}")


@pytest.mark.parametrize("routed", [True, False], ids=["routes", "table"])
def test_a_websocket_is_decided_at_its_handshake(realm: UnsafeTestRealm, routed: bool) -> None:
    """A route that no line names is refused; a connection is ended by a kill, although nothing is sent on it."""
    tools = {"WEBSOCKET /live/{order_id}": "orders.live", "GET /live/{order_id}": "orders.get"}
    app: Any = echo
    if routed:

        async def get(_: Request) -> Response:
            return PlainTextResponse("get")

        live = [Route("/{order_id}", get), WebSocketRoute("/{order_id}", Echo, name="live")]
        app = Starlette(routes=[Mount("/live", routes=live), WebSocketRoute("/other", Echo, name="other")])
        with pytest.raises(SettingsError, match="needs a token"):
            ArxMiddleware(app, verifier=realm.verifier, tools={}, public=["other"])
        with pytest.raises(SettingsError, match="found 0"):
            ArxMiddleware(app, verifier=realm.verifier, tools={"GET /other": "orders.live"})
    guarded = ArxMiddleware(app, verifier=realm.verifier, tools=tools, recheck_ms=50)
    agent = realm.caller(Rule(tool="orders.live", args={"order_id": "o-1"}))
    reader = realm.caller(Rule(tool="orders.get"))
    with served(guarded) as address:
        for target, who, code in (
            ("/live/o-1", None, "missing_token"),
            ("/live/o-1", reader, "tool_not_allowed"),
            ("/live/o-2", agent, "argument_not_allowed"),
            ("/live/o-1?x=1", agent, "argument_not_allowed"),
            ("/other", agent, "tool_not_allowed"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                connect(address, target, who)
            assert refused.value.response.status_code in (401, 403)
            assert json.loads(refused.value.response.body)["code"] == code, target
        with connect(address, "/live/o-1", agent) as socket, connect(address, "/live/o-1", agent) as other:
            socket.send("hello")
            assert socket.recv(timeout=60) == "orders.live hello"
            realm.epochs.kill("agent:test/agent")
            for one in (socket, other):
                with pytest.raises(ConnectionClosed) as closed:
                    one.recv(timeout=60)
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "revoked")


def test_a_word_of_the_table_is_no_method(realm: UnsafeTestRealm) -> None:
    """A request whose method is the word that stands for a WebSocket is no WebSocket, and has no tool."""
    app = ArxMiddleware(echo, verifier=realm.verifier, tools={"WEBSOCKET /live": "orders.live"})
    with served(app) as address:
        answer = httpx.request("WEBSOCKET", f"{address}/live", auth=realm.caller(Rule(tool="orders.live")))
    assert answer.json()["code"] == "tool_not_allowed"


def test_a_public_route_answers_what_it_likes(realm: UnsafeTestRealm) -> None:
    """A redirect, an error, a large body in parts: nothing of it is buffered or withheld."""

    async def login(_: Request) -> Response:
        return RedirectResponse("/elsewhere")

    async def upload(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    routes = [Route("/login", login), Route("/upload", upload, methods=["POST"])]
    app = Starlette(routes=routes)
    guard(app, realm.verifier, tools={}, public=["/login", "upload"], max_body=1000)
    with served(app) as address, httpx.Client(base_url=address) as http:
        assert http.get("/login").status_code == 307
        assert http.post("/upload", content=b"x" * 100_000).text == "100000"
    assert [decision.code for decision in realm.decisions.decisions] == []


def test_a_wrong_table_fails_at_once(realm: UnsafeTestRealm) -> None:
    """Also a public route that a tool names, and a table that is given after the start."""
    app = Starlette(routes=[Route("/healthz", lambda _: PlainTextResponse(""), name="healthz")])
    for tools, public, value in (
        ({"nothing": "orders.get"}, [], "found 0"),
        ({}, ["GET /nothing"], "found 0"),
        ({"healthz": "orders.get"}, ["/healthz"], "twice"),
        ({"healthz": "*public"}, [], "no tool"),
        ({}, "healthz", "expected a list"),
    ):
        with pytest.raises(SettingsError, match=value):
            guard(app, realm.verifier, tools=tools, public=public)
