# SPDX-License-Identifier: Apache-2.0
"""A service could mark a session when its answer had left, or answer although the ledger had not set the mark.

A call that another agent made in between was judged without the mark, and could send what it had read.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from arx_verifier import Rule, current_grant, protect
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.errors import StoreError
from arx_verifier.integrations.starlette import current_grant as grant_of
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.grant import Grant
from tests.adapters.asgi_server import serving
from tests.adapters.grpc_service import Call, stub
from tests.adapters.test_grpc_server import AioService, Service, served
from tests.verifier.test_watch import serving_wsgi

pytestmark = [pytest.mark.spec("21.3"), pytest.mark.servers]

ROWS = {"after": [[["untrusted"], ["orders.pay"]]]}


class Marking:
    """A realm, and what a service does with the grant of a call while it answers.

    Args:
        fails: Whether its ledger does not answer.
    """

    def __init__(self, *, fails: bool = False) -> None:
        self.realm, self.raised = UnsafeTestRealm("orders"), list[type[Exception] | None]()
        self.caller = self.realm.caller(Rule(tool="*"), marks=ROWS)
        if fails:
            self.realm.verifier._budgets.ledger._refuse()

    def mark(self, grant: Grant) -> None:
        """Set a mark, and go on whatever comes of it."""
        error: Exception | None = None
        try:
            grant.mark("untrusted")
        except (ValueError, StoreError) as found:
            error = found
        self.raised.append(None if error is None else type(error))


def asgi_app(marking: Marking) -> Starlette:
    async def answer(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            yield b"part"
            marking.mark(grant_of(request))
            yield b"part"

        marking.mark(grant_of(request))
        return StreamingResponse(parts())

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        marking.mark(websocket.scope["arx"])
        await websocket.send_text("part")
        marking.mark(websocket.scope["arx"])
        await websocket.close()

    return Starlette(routes=[Route("/read", answer, methods=["POST"]), WebSocketRoute("/socket", socket)])


def wsgi_app(marking: Marking) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        marking.mark(environ["arx"])
        yield b"part"
        marking.mark(environ["arx"])
        yield b"part"

    return application


def http(kind: str, marking: Marking) -> Any:
    options: dict[str, Any] = {"verifier": marking.realm.verifier, "tools": {"POST /read": "orders.read"}}
    if kind == "asgi":
        return serving(ArxMiddleware(asgi_app(marking), **options))
    return serving_wsgi(ArxWSGI(wsgi_app(marking), **options))


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_part_of_an_answer_over_http(kind: str) -> None:
    """Before it the mark is set; after it the program gets an error, and it is set all the same."""
    marking = Marking()
    with http(kind, marking) as port, httpx.Client(trust_env=False, timeout=30, auth=marking.caller) as client:
        assert client.post(f"http://127.0.0.1:{port}/read").content == b"partpart"
    assert marking.raised == [None, ValueError]


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_no_part_of_an_answer_leaves_without_its_mark(kind: str) -> None:
    """The program goes on, and its caller gets the refusal; the record has the end."""
    marking = Marking(fails=True)
    with http(kind, marking) as port, httpx.Client(trust_env=False, timeout=30, auth=marking.caller) as client:
        answer = client.post(f"http://127.0.0.1:{port}/read")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert marking.raised[0] is StoreError
    ends = [decision.code for decision in marking.realm.decisions.decisions if decision.outcome == "end"]
    assert ends == ["store_unavailable"]


def test_a_further_try_that_sets_it_lets_the_answer_leave() -> None:
    """The ledger answers again."""
    marking = Marking()
    ledger = marking.realm.verifier._budgets.ledger

    @protect(marking.realm.verifier, "orders.read")
    def read() -> str:
        grant = current_grant()
        assert grant is not None
        for ledger._forked in (True, False):
            marking.mark(grant)
        return "read"

    assert read(arx_token=marking.caller.token("orders.read")) == "read"
    assert marking.raised == [StoreError, None]


def test_a_message_of_a_websocket() -> None:
    """The acceptance of its handshake is no part of an answer."""
    marking = Marking()
    app = ArxMiddleware(asgi_app(marking), verifier=marking.realm.verifier, tools={"WEBSOCKET /socket": "orders.read"})
    signed = marking.caller(httpx.Request("GET", "http://testserver/socket"))
    with TestClient(app).websocket_connect("/socket", headers=dict(signed.headers)) as socket:
        assert socket.receive_text() == "part"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert marking.raised == [None, ValueError]


class Threads(Service):
    marking: Marking

    def unary(self, request: Any, context: Any) -> Any:
        self.marking.mark(current_grant())
        return Call(order_id=request.order_id, amount=request.amount)

    def watch(self, request: Any, context: Any) -> Any:
        for _ in range(2):
            self.marking.mark(current_grant())
            yield Call()


class Loop(AioService):
    marking: Marking

    async def unary(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        self.marking.mark(current_grant())
        return Call(order_id=request.order_id, amount=request.amount)

    async def watch(self, request: Any, context: Any) -> Any:
        for _ in range(2):
            self.marking.mark(current_grant())
            yield Call()


class Writer(Loop):
    """Its streaming method sends through the context."""

    async def watch(self, request: Any, context: Any) -> Any:
        for _ in range(2):
            self.marking.mark(current_grant())
            await context.write(Call())


@pytest.mark.parametrize("kind", [Threads, Loop, Writer])
def test_a_message_of_a_stream_of_grpc(kind: Any) -> None:
    """The second message of an answer comes too late."""
    service, marking = kind(), Marking()
    service.marking = marking
    sent = (("authorization", f"Bearer {marking.caller.token('orders.watch')}"),)
    with served(service, marking.realm) as channel:
        assert len(list(stub(channel, "Watch")(Call(), metadata=sent, timeout=30))) == 2
    assert marking.raised == [None, ValueError]


@pytest.mark.parametrize("kind", [Threads, Loop])
@pytest.mark.parametrize("method", ["Refund", "Watch"])
def test_no_message_of_grpc_leaves_without_its_mark(kind: Any, method: str) -> None:
    """A client gets the status of a service that is not available."""
    service, marking = kind(), Marking(fails=True)
    service.marking = marking
    unary = method == "Refund"
    args: dict[str, Any] = {"order_id": "o-1", "amount": 7} if unary else {}
    token = marking.caller.token("orders.refund" if unary else "orders.watch", **args)
    with served(service, marking.realm) as channel:
        made = stub(channel, method)
        call = made.future if unary else made
        answer = call(Call(**args), metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            answer.result() if unary else next(answer)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert marking.raised[0] is StoreError


def protected(marking: Marking, grants: list[Any], *, is_async: bool) -> Any:
    def read() -> str:
        grants.append(current_grant())
        marking.mark(grants[0])
        return "read"

    async def read_async() -> str:
        return read()

    return protect(marking.realm.verifier, "orders.read")(read_async if is_async else read)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_that_has_returned(is_async: bool) -> None:
    """Its grant outlives it in another thread; and a function that could not mark has no result."""
    for fails in (False, True):
        marking, grants = Marking(fails=fails), list[Any]()

        guarded = protected(marking, grants, is_async=is_async)
        token = marking.caller.token("orders.read")
        with pytest.raises(StoreError) if fails else contextlib.nullcontext():
            _ = asyncio.run(guarded(arx_token=token)) if is_async else guarded(arx_token=token)
        marking.mark(grants[0])
        assert marking.raised == ([StoreError] * 2 if fails else [None, ValueError])


@pytest.mark.parametrize("fails", [False, True])
def test_a_result_of_mcp(fails: bool) -> None:
    """The same of a tool of MCP, whose result leaves when it has returned."""
    marking, grants = Marking(fails=fails), list[Any]()
    meta = {META_KEY: marking.caller.token("orders.read")}

    async def schema() -> Mapping[str, Any]:
        return {}

    async def handler() -> Any:
        grants.append(current_grant())
        marking.mark(grants[0])
        return {"content": []}

    run = Messages(marking.realm.verifier).run(McpMessage("tools/call", {"name": "read"}, meta), schema, handler)
    with pytest.raises(Exception, match="store_unavailable") if fails else contextlib.nullcontext():
        asyncio.run(run)
    marking.mark(grants[0])
    assert marking.raised == ([StoreError] * 2 if fails else [None, ValueError])
