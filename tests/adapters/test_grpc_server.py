# SPDX-License-Identifier: Apache-2.0
"""The interceptors of gRPC servers, with threads and with asyncio, asked over a real channel."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import Any

import grpc
import grpc.aio
import pytest

from arx_verifier import Constraint, Rule, SettingsError, current_grant
from arx_verifier.enforcement.rpc.rpc_call import RPC_PROBLEM
from arx_verifier.integrations.grpc import ArxAioInterceptor, ArxInterceptor
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.grpc_service import DATA, PREFIX, TOOLS, Call, Newer, handlers, stub
from tests.servers import until

REFUND = Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)})
GET = Rule(tool="orders.get", args={"order_id": "o-1"})
ANY = Rule(tool="*")
LARGE = Call(chunk=bytes(3_000_000))
OPTIONS: dict[str, Any] = {"tools": TOOLS, "public": [f"{PREFIX}Health"], "data": DATA, "recheck_ms": 5}


class Service:
    """A service with a method of each kind, in threads."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.go_on, self.in_work = threading.Event(), threading.Event()

    def unary(self, request: Any, context: Any) -> Any:
        self.ran.append(request.order_id)
        grant = current_grant()
        if request.dry_run:
            assert grant is not None
            grant.on_end(lambda _: self.go_on.set())
            self.in_work.set()
            assert self.go_on.wait(60)
        return Call(order_id=grant.holder if grant else "anonymous", amount=request.amount)

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        while True:
            grant = current_grant()
            assert grant is not None
            yield Call(order_id=grant.holder)

    def idle(self, request: Any, context: Any) -> Iterator[Any]:
        yield Call()
        assert self.go_on.wait(60)

    def upload(self, requests: Iterator[Any], context: Any) -> Any:
        return Call(chunk=b"".join(request.chunk for request in requests))

    def chat(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield from requests

    @property
    def methods(self) -> dict[str, Any]:
        return {
            **dict.fromkeys(("Get", "Refund", "Health", "Unnamed"), self.unary),
            "Watch": self.watch,
            "Idle": self.idle,
            "Upload": self.upload,
            "Chat": self.chat,
        }


class AioService(Service):
    """The same on an event loop."""

    async def unary(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        self.ran.append(request.order_id)
        grant = current_grant()
        if request.dry_run:
            self.in_work.set()
            await asyncio.Event().wait()  # ended by the kill alone
        return Call(order_id=grant.holder if grant else "anonymous", amount=request.amount)

    async def watch(self, request: Any, context: Any) -> Any:
        while True:
            grant = current_grant()
            assert grant is not None
            await context.write(Call(order_id=grant.holder))

    async def idle(self, request: Any, context: Any) -> Any:
        yield Call()
        await asyncio.Event().wait()

    async def upload(self, requests: Any, context: Any) -> Any:
        return Call(chunk=b"".join([request.chunk async for request in requests]))

    async def chat(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request


class LargeService(AioService):
    """Its messages are larger than what is sent before a client reads."""

    async def watch(self, request: Any, context: Any) -> Any:
        while True:
            self.in_work.set()
            await context.write(LARGE)

    async def idle(self, request: Any, context: Any) -> Any:
        while True:
            self.in_work.set()
            yield LARGE


@contextlib.contextmanager
def served(service: Service, realm: UnsafeTestRealm, **watching: Any) -> Iterator[Any]:
    if not isinstance(service, AioService):
        with futures.ThreadPoolExecutor(8) as pool:
            server = grpc.server(pool, interceptors=[ArxInterceptor(realm.verifier, **OPTIONS, **watching)])
            server.add_generic_rpc_handlers((handlers(service.methods),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
            service.go_on.set()
            server.stop(0).wait()
        return
    ready, ports, loop = threading.Event(), list[int](), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        server = grpc.aio.server(interceptors=[ArxAioInterceptor(realm.verifier, **OPTIONS, **watching)])
        server.add_generic_rpc_handlers((handlers(service.methods),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(60)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            yield channel
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@pytest.fixture(params=[Service, AioService])
def service(request: pytest.FixtureRequest) -> Service:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture
def channel(service: Service, realm: UnsafeTestRealm) -> Iterator[Any]:
    with served(service, realm) as channel:
        yield channel


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def refused(call: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The status of a refused call, and the problem in its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call() if isinstance(call, FunctionType) else list(call)
    error: Any = caught.value
    return error.code(), json.loads(dict(error.trailing_metadata() or ()).get(RPC_PROBLEM, b"{}"))


def test_a_call_within_the_token_runs(realm: UnsafeTestRealm, channel: Any, service: Service) -> None:
    """The method gets its grant, also of a sub-agent, and a public method needs none."""
    worker = realm.caller(REFUND).delegate("test/worker")
    token = worker.token("orders.refund", order_id="o-1", amount=5)
    answer = stub(channel, "Refund")(Call(order_id="o-1", amount=5), metadata=bearer(token), timeout=60)
    assert (answer.order_id, answer.amount) == ("test/worker", 5)
    assert stub(channel, "Health")(Call(), timeout=60).order_id == "anonymous"
    again = refused(lambda: stub(channel, "Refund")(Call(order_id="o-1", amount=5), metadata=bearer(token)))
    assert (again[0], again[1]["code"]) == (grpc.StatusCode.UNAUTHENTICATED, "replayed")


@pytest.mark.spec("17.4")
@pytest.mark.parametrize("made", [Service, AioService])
def test_an_answer_says_what_a_budget_has_left(made: type[Service]) -> None:
    """In the trailing metadata, of an answer and at the end of a stream; beside what the method sets itself."""
    realm = UnsafeTestRealm("orders", costs={"orders.*": {"usd": "0.3"}})
    service, paid = made(), realm.caller(ANY, budget={"usd": "1.00"})
    chat = service.chat

    def named(requests: Any, context: Any) -> Any:
        context.set_trailing_metadata((("own", "1"),))
        return chat(requests, context)

    async def named_async(requests: Any, context: Any) -> Any:
        context.set_trailing_metadata((("own", "1"),))
        async for answer in chat(requests, context):
            yield answer

    service.chat = named_async if made is AioService else named  # type: ignore[method-assign]
    with served(service, realm) as channel:

        def trailing(name: str, caller: Any) -> dict[str, Any]:
            metadata = bearer(caller.token(f"orders.{name.lower()}", order_id="o-1"))
            if name == "Get":
                _, call = stub(channel, name).with_call(Call(order_id="o-1"), metadata=metadata, timeout=60)
            else:
                call = stub(channel, name)(iter([Call(order_id="o-1")]), metadata=metadata, timeout=60)
                assert len([*call]) == 1
            return dict(call.trailing_metadata() or ())

        assert trailing("Get", paid) == {"arx-budget": 'usd="0.7"'}
        assert trailing("Chat", paid) == {"arx-budget": 'usd="0.4"', "own": "1"}
        assert trailing("Get", realm.caller(ANY)) == {}


@pytest.mark.spec("21.4")
@pytest.mark.parametrize("made", [Service, AioService])
def test_a_call_after_a_mark_runs_nothing(made: type[Service]) -> None:
    """A program reads the code, the mark and the call that set it; a proof is set once its call is done."""
    realm, service = UnsafeTestRealm("orders"), made()
    rows = {
        "marks": [["call", "seen", "session", ["orders.chat"]], ["done", "checked", "session", ["orders.get"]]],
        "after": [[["seen"], ["orders.refund"]]],
        "only_after": [["checked", 0, ["orders.refund"]]],
    }
    caller = realm.caller(ANY, marks=rows)
    with served(service, realm) as channel:

        def call(name: str, by: Any = caller) -> Any:
            metadata, order = bearer(by.token(f"orders.{name.lower()}", order_id="o-1")), Call(order_id="o-1")
            if name != "Chat":
                return stub(channel, name)(order, metadata=metadata, timeout=60)
            return [*stub(channel, name)(iter([order]), metadata=metadata, timeout=60)]

        status, problem = refused(lambda: call("Refund"))
        assert (status, problem["code"]) == (grpc.StatusCode.PERMISSION_DENIED, "mark_missing")
        call("Get")
        call("Refund")
        ran = len(service.ran)
        call("Chat", caller.delegate("test/helper"))
        status, problem = refused(lambda: call("Refund"))
        assert (status, problem["code"], len(service.ran)) == (grpc.StatusCode.PERMISSION_DENIED, "after_mark", ran)
        [failure] = problem["failures"]
        assert failure["came"].startswith("seen by orders.chat at orders, ")


def test_a_refused_call_runs_nothing(realm: UnsafeTestRealm, channel: Any, service: Service) -> None:
    """A caller reads the code, the expected and the received value; other arguments than the signed ones fail."""
    caller = realm.caller(REFUND, GET)
    refund = stub(channel, "Refund")
    token = caller.token("orders.refund", order_id="o-1", amount=50)
    status, problem = refused(lambda: refund(Call(order_id="o-1", amount=50), metadata=bearer(token)))
    assert (status, problem["code"]) == (grpc.StatusCode.PERMISSION_DENIED, "argument_not_allowed")
    assert problem["failures"] == [{"place": "caveat 1", "rule": "amount max", "expected": "20", "came": "50"}]
    signed = bearer(caller.token("orders.refund", order_id="o-1", amount=5))
    for message, metadata, code in (
        (Call(order_id="o-1", amount=6), signed, "proof_invalid"),
        (Call(order_id="o-1", amount=5), [], "missing_token"),
        (Call(order_id="o-1", amount=5), signed * 2, "malformed_request"),
        (Newer(order_id="o-1", amount=5, secret="x"), signed, "malformed_request"),
        (Call(order_id="o-1", amount=5), bearer("arx1_AAAA"), "malformed"),
    ):
        assert refused(lambda: refund(message, metadata=metadata))[1]["code"] == code  # noqa: B023
    any_token = bearer(realm.caller(ANY).token("orders.unnamed"))
    assert refused(lambda: stub(channel, "Unnamed")(Call(), metadata=any_token))[1]["code"] == "tool_not_allowed"
    assert service.ran == []


def test_a_field_with_its_default_is_absent(realm: UnsafeTestRealm, channel: Any) -> None:
    """Zero is not on the wire: a rule on the argument is not met by it."""
    token = realm.caller(REFUND).token("orders.refund", order_id="o-1")
    _, problem = refused(lambda: stub(channel, "Refund")(Call(order_id="o-1", amount=0), metadata=bearer(token)))
    assert problem["code"] == "argument_not_allowed"


@pytest.mark.parametrize("method", ["Watch", "Idle"])
def test_a_kill_ends_a_stream(realm: UnsafeTestRealm, channel: Any, service: Service, method: str) -> None:
    """A stream ends with the reason, or is cancelled in a server with threads."""
    metadata = bearer(realm.caller(ANY).token(TOOLS[PREFIX + method]))
    stream = stub(channel, method)(Call(), metadata=metadata, timeout=60)
    next(stream)
    realm.epochs.kill("agent:test/agent")
    status, problem = refused(stream)
    if isinstance(service, AioService) or problem:
        assert (status, problem["code"]) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")
    else:
        assert status == grpc.StatusCode.CANCELLED
    until(lambda: [decision.code for decision in realm.decisions.decisions] == ["ok", "revoked"])


@pytest.mark.parametrize("service", [LargeService], indirect=True)
@pytest.mark.parametrize("method", ["Watch", "Idle"])
def test_a_kill_during_a_write_is_reported(realm: UnsafeTestRealm, channel: Any, service: Service, method: str) -> None:
    """The reason follows the message that a client reads late, also the first one."""
    metadata = bearer(realm.caller(ANY).token(TOOLS[PREFIX + method]))
    stream = stub(channel, method)(Call(), metadata=metadata, timeout=60)
    assert service.in_work.wait(60)
    realm.epochs.kill("agent:test/agent")
    until(lambda: [decision.code for decision in realm.decisions.decisions] == ["ok", "revoked"])
    status, problem = refused(stream)
    assert (status, problem.get("code")) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")


def test_a_kill_during_a_unary_call_is_answered(realm: UnsafeTestRealm, channel: Any, service: Service) -> None:
    """Nothing of the answer leaves."""
    token = realm.caller(ANY).token("orders.get", dry_run=True)
    call = stub(channel, "Get").future(Call(dry_run=True), metadata=bearer(token), timeout=60)
    assert service.in_work.wait(60)
    realm.epochs.kill("agent:test/agent")
    assert refused(lambda: call.result())[1]["code"] == "revoked"


def test_the_first_message_of_a_stream_decides(realm: UnsafeTestRealm, channel: Any) -> None:
    """Later messages may bring declared data, and no argument that was not decided on."""
    caller = realm.caller(Rule(tool="orders.upload", args={"order_id": "o-1"}), Rule(tool="orders.chat"))

    def upload(*messages: Any) -> Any:
        token = caller.token("orders.upload", **({"order_id": messages[0].order_id} if messages else {}))
        return stub(channel, "Upload")(iter(messages), metadata=bearer(token), timeout=60)

    first = Call(order_id="o-1", chunk=b"a")
    assert upload(first, Call(chunk=b"b"), Call(order_id="o-1", chunk=b"c")).chunk == b"abc"
    for later in (Call(order_id="o-2", chunk=b"b"), Call(amount=5)):
        assert refused(lambda: upload(first, later))[1]["code"] == "malformed_request"  # noqa: B023
    assert refused(lambda: upload(Call(order_id="o-2")))[1]["code"] == "argument_not_allowed"
    assert refused(lambda: upload())[1]["code"] == "argument_not_allowed"
    token = caller.token("orders.chat", order_id="hi")
    chat = stub(channel, "Chat")(iter([Call(order_id="hi"), Call(order_id="more")]), metadata=bearer(token))
    assert next(chat).order_id == "hi"
    assert refused(chat)[1]["code"] == "malformed_request"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": {"Refund": "orders.refund"}}, "no method"),
        ({"tools": {f"{PREFIX}Refund": "no tool"}}, "no tool"),
        ({"tools": TOOLS, "public": [f"{PREFIX}Get"]}, "is public and in"),
        ({"tools": TOOLS, "public": "x"}, "expected a list"),
        ({"tools": TOOLS, "recheck_ms": 0}, "recheck_ms"),
    ],
)
def test_a_mistake_raises_when_it_is_made(realm: UnsafeTestRealm, options: Any, message: str) -> None:
    for kind in (ArxInterceptor, ArxAioInterceptor):
        with pytest.raises(SettingsError, match=message):
            kind(realm.verifier, **options)


@pytest.mark.spec("12.7")
def test_a_server_that_watches_lets_calls_go_on(service: Service, realm: UnsafeTestRealm) -> None:
    """
    Without a token, beyond a rule, and with other arguments in a later message; a kill holds.
    """
    soon = datetime.now(UTC) + timedelta(days=1)
    caller = realm.caller(Rule(tool="orders.upload", args={"order_id": "o-1"}))
    parts = [Call(order_id="x-1", chunk=b"a"), Call(order_id="o-2", chunk=b"b")]
    with served(service, realm, mode="watch", until=soon) as channel:
        upload = stub(channel, "Upload")
        token = caller.token("orders.upload", order_id="x-1")
        assert upload(iter(parts), metadata=bearer(token)).chunk == b"ab"
        assert upload(iter(parts)).chunk == b"ab"
        assert upload(iter(parts), metadata=bearer("own")).chunk == b"ab"
        assert [each.chunk for each in stub(channel, "Chat")(iter(parts))] == [b"a", b"b"]
        assert refused(lambda: upload(iter(parts), metadata=bearer(token)))[1]["code"] == "replayed"
        realm.epochs.kill("agent:test/agent")
        token = caller.token("orders.upload", order_id="x-1")
        assert refused(lambda: upload(iter(parts), metadata=bearer(token)))[1]["code"] == "revoked"
    codes = [(each.outcome, each.code) for each in realm.decisions.decisions if not each.counts]
    assert codes == [("would_refuse", "argument_not_allowed"), ("deny", "replayed"), ("deny", "revoked")]
