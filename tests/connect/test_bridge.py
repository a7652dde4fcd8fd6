# SPDX-License-Identifier: Apache-2.0
"""``arx connect`` over stdio: a stock client's messages reach a guarded server signed, and only those that may."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arx_caps.agent import make_holder_key
from arx_verifier import ArxMiddleware, Rule
from tests.adapters.asgi_server import serving
from tests.connect.conftest import MODERN, RULES, WAIT_S, Client, World

pytestmark = pytest.mark.servers


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    """A client that has opened a session."""
    with world.bridged() as client:
        assert client.open()["result"]["serverInfo"]["name"] == "orders"
        yield client


def test_a_call_runs_with_a_token_of_its_own(world: World, client: Client) -> None:
    """The tool sees the task's agent; no two messages have one token."""
    assert client.call(1, "get", order_id="o-1") == (False, 'get {"order_id": "o-1"} by test/agent')
    assert client.call("1", "get", order_id="o-2") == (False, 'get {"order_id": "o-2"} by test/agent')
    tokens = [seen.headers["authorization"] for seen in world.endpoint.seen]
    assert len(tokens) >= 4
    assert len(set(tokens)) == len(tokens)


@pytest.mark.slow
@pytest.mark.spec("16.3")
def test_a_bound_task_is_called_with_its_holder_s_key(world: World) -> None:
    """Each message has the key's proof; a bridge that has another key does not begin."""
    key = make_holder_key(world.folder / "own.key")
    make_holder_key(world.folder / "other.key")
    world.task(key=key).save(world.bundle)
    with world.bridged("--holder-key", str(world.folder / "own.key")) as client:
        client.open()
        assert client.call(1, "get", order_id="o-1") == (False, 'get {"order_id": "o-1"} by test/agent')
    facts = [decision.facts for decision in world.realm.decisions.decisions]
    assert {(each.assurance, each.holders[-1].key) for each in facts} == {("bound", key.public)}
    with world.bridged("--holder-key", str(world.folder / "other.key")) as client:
        assert client.process.wait(WAIT_S) == 2
    assert f"bound to the key {key.public}" in b"".join(client.errors).decode()


def test_a_captured_request_replays(world: World, client: Client) -> None:
    """The same bytes, sent again, are refused as ``replayed``."""
    assert client.call(1, "get", order_id="o-1")[0] is False
    captured = world.endpoint.seen[-1]
    again = httpx.post(world.url, headers=captured.headers, content=captured.body).json()
    assert again["error"]["data"]["code"] == "replayed"
    assert world.codes()[-1] == "replayed"
    changed = captured.body.replace(b"o-1", b"o-2")
    forged = httpx.post(world.url, headers=captured.headers, content=changed).json()
    assert forged["error"]["data"]["code"] == "proof_invalid"
    assert world.endpoint.ran == ["get"]


def test_a_refused_argument_is_not_sent(world: World, client: Client) -> None:
    """The model reads what is allowed; the server gets no such call."""
    failed, text = client.call(1, "refund", order_id="o-1", amount=50)
    assert failed
    assert text.startswith("refund was refused: amount must be at most 20, got 50. Do not repeat this call.")
    assert "tools/call" not in [seen.rpc.get("method") for seen in world.endpoint.seen]
    failed, text = client.call(2, "drop", order_id="o-1")
    assert failed
    assert text.startswith("drop was refused: the tool must be")
    error = client.ask(3, "resources/read", {"uri": "orders://terms"})["error"]
    assert error["data"] == {"code": "tool_not_allowed"}


@pytest.mark.slow
def test_a_list_has_what_the_task_can_allow(world: World, client: Client) -> None:
    """The server's list has more."""
    tools = client.ask(1, "tools/list")["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["get", "refund", "wait", "ask", "late", "break", "plain"]


def test_only_narrows_the_task(world: World) -> None:
    """A client gets less than the bundle has."""
    with world.bridged("--only", "orders.get") as client:
        client.open()
        assert [tool["name"] for tool in client.ask(1, "tools/list")["result"]["tools"]] == ["get"]
        assert client.call(2, "plain")[1].startswith("plain was refused: the tool must be orders.get")
        assert client.call(3, "get", order_id="o-1")[0] is False


def test_a_kill_ends_a_stream_and_every_later_call(world: World, client: Client) -> None:
    """The running call ends with the sentence of a kill; the next one is refused by the server."""
    client.send("tools/call", {"name": "wait", "_meta": {"progressToken": 7}}, 1)
    assert client.receive(lambda message: "method" in message)["params"]["progressToken"] == 7
    world.realm.epochs.kill("task:t-test")
    ended = client.answer(1)["result"]
    assert ended["isError"]
    assert "Stop now, call no other tool" in ended["content"][0]["text"]
    failed, text = client.call(2, "get", order_id="o-1")
    assert failed
    assert text.startswith("An operator ended this work")


def test_a_refusal_of_http_is_read_by_the_model(tmp_path: Path) -> None:
    """A server behind ``ArxMiddleware`` refuses with a problem: a call gets its sentence, another message an error."""

    async def answer(request: Request) -> Response:
        rpc = await request.json()
        return JSONResponse(
            {"jsonrpc": "2.0", "id": rpc["id"], "result": {"content": [{"type": "text", "text": "ran"}]}}
        )

    world = World(tmp_path)
    world.write_bundle(Rule(tool="orders.mcp"), Rule(tool="orders.get"))
    app = Starlette(routes=[Route("/mcp", answer, methods=["POST"])])
    guarded = ArxMiddleware(app, verifier=world.realm.verifier, tools={"POST /mcp": "orders.mcp"})
    with serving(guarded, world.port), world.bridged() as client:
        assert client.call(1, "get", MODERN) == (False, "ran")
        world.realm.epochs.kill("task:t-test")
        failed, text = client.call(2, "get", MODERN)
        assert failed
        assert text.startswith("An operator ended this work")
        assert "(decision " in text
        error = client.ask(3, "tools/list", {"_meta": MODERN})["error"]
        assert (error["code"], error["data"]["code"]) == (-32010, "revoked")


@pytest.mark.slow
def test_messages_in_flight_do_not_mix(world: World, client: Client) -> None:
    """Requests run beside each other: a waiting one holds up no other, and each answer is the request's own."""
    client.send("tools/call", {"name": "wait"}, "slow")
    world.wait_for("POST tools/call")
    for number in range(1, 21):
        client.send("tools/call", {"name": "get", "arguments": {"order_id": f"o-{number}"}}, number)
    for number in reversed(range(1, 21)):
        text = client.answer(number)["result"]["content"][0]["text"]
        assert text == f'get {{"order_id": "o-{number}"}} by test/agent'


@pytest.mark.slow
def test_a_cancelled_request_ends_at_the_server(world: World, client: Client) -> None:
    """The request is closed, and the notification is sent on; it gets no answer."""
    client.send("tools/call", {"name": "wait"}, 1)
    client.receive(lambda message: message.get("method") == "notifications/progress")
    client.send("notifications/cancelled", {"requestId": 1})
    world.wait_for("cancelled")
    assert client.ask(2, "ping")["result"] == {}
    notices = [
        seen.rpc["params"] for seen in world.endpoint.seen if seen.rpc.get("method") == "notifications/cancelled"
    ]
    assert notices == [{"requestId": 1}]
    assert client.close() == 0
    assert not [message for message in client.rest() if message.get("id") == 1]


@pytest.mark.slow
def test_questions_of_the_server_are_answered(world: World, client: Client) -> None:
    """An elicitation comes in the stream of a call; the client's answer goes as a message of its own."""
    client.send("tools/call", {"name": "ask"}, 1)
    question = client.receive(lambda message: message.get("method") == "elicitation/create")
    client.raw(json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}).encode())
    assert client.answer(1)["result"]["content"][0]["text"] == "q-1 accept"


@pytest.mark.slow
def test_a_stream_is_resumed_after_its_last_event(world: World, client: Client) -> None:
    """The server ends the stream of a call early; the answer comes in another one."""
    assert client.call(1, "late") == (False, "late")
    resumed = [seen for seen in world.endpoint.seen if seen.headers.get("last-event-id") == "e-1"]
    assert len(resumed) == 1
    assert resumed[0].headers["authorization"].startswith("Bearer ")


@pytest.mark.slow
def test_a_stream_without_an_answer_is_an_error(world: World, client: Client) -> None:
    """The client is not left waiting."""
    error = client.ask(1, "tools/call", {"name": "break"})["error"]
    assert error["message"] == "the server's stream had no answer"


@pytest.mark.slow
def test_the_servers_own_messages_arrive(world: World, client: Client) -> None:
    """They come in the event stream of the session, which opens after ``initialized``."""
    world.wait_for("GET")
    world.endpoint.push.put_nowait({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    assert client.receive()["method"] == "notifications/tools/list_changed"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_a_session_is_named_and_ended(world: World, version: str) -> None:
    """Each message after ``initialize`` names session and revision; at the end of stdin the session is deleted."""
    with world.bridged() as client:
        client.open(version)
        assert client.ask(1, "ping")["result"] == {}
        (session,) = world.endpoint.sessions
        assert client.close() == 0
    first, *others = world.endpoint.seen
    assert "mcp-session-id" not in first.headers
    assert {(seen.headers["mcp-session-id"], seen.headers["mcp-protocol-version"]) for seen in others} == {
        (session, version)
    }
    assert [seen.rpc.get("method", seen.method) for seen in others if seen.method != "GET"] == [
        "notifications/initialized",
        "ping",
        "DELETE",
    ]
    assert b"".join(client.errors) == b""


@pytest.mark.slow
def test_a_forgotten_session_is_opened_again(world: World, client: Client) -> None:
    """After a restart of the server the client's next calls work, as two clients would: the session is opened once."""
    world.endpoint.sessions.clear()
    for number in (1, 2, 3):
        client.send("tools/call", {"name": "get", "arguments": {"order_id": "o-1"}}, number)
    assert [bool(client.answer(number)["result"].get("isError")) for number in (1, 2, 3)] == [False] * 3
    methods = [seen.rpc.get("method") for seen in world.endpoint.seen]
    assert methods.count("initialize") == methods.count("notifications/initialized") == 2
    assert world.endpoint.ran == ["get"] * 3


@pytest.mark.slow
def test_a_session_that_is_refused_is_not_opened_again(world: World, client: Client) -> None:
    """After a kill and a restart each request gets an answer of its own, and no answer to ``initialize`` comes."""
    world.endpoint.sessions.clear()
    world.realm.epochs.kill("task:t-test")
    for number in (5, 6):
        error = client.ask(number, "ping")["error"]
        assert error["message"] == "the server answered 404 Not Found"
    assert client.close() == 0
    assert client.rest() == []


@pytest.mark.slow
def test_the_stateless_revision_names_each_call(world: World) -> None:
    """Method, tool and marked arguments are in the headers; there is no session, and a cancellation is no message."""
    with world.bridged() as client:
        assert "result" in client.ask(0, "server/discover", {"_meta": MODERN})
        tools = client.ask(1, "tools/list", {"_meta": MODERN})["result"]["tools"]
        assert "drop" not in [tool["name"] for tool in tools]
        assert client.call(2, "get", MODERN, order_id="o-1")[0] is False
        refused = client.ask(3, "tools/call", {"name": "drop", "_meta": MODERN})["result"]
        assert (refused["isError"], refused["resultType"]) == (True, "complete")
        client.send("tools/call", {"name": "wait", "_meta": MODERN}, 4)
        client.receive(lambda message: message.get("method") == "notifications/progress")
        client.send("notifications/cancelled", {"requestId": 4, "_meta": MODERN})
        world.wait_for("cancelled")
        assert client.close() == 0
    assert {seen.method for seen in world.endpoint.seen} == {"POST"}
    assert "notifications/cancelled" not in [seen.rpc["method"] for seen in world.endpoint.seen]
    assert not [seen for seen in world.endpoint.seen if "mcp-session-id" in seen.headers]


@pytest.mark.slow
def test_a_server_that_is_away_is_tried_again(tmp_path: Path) -> None:
    """Each request gets an error with the cause; the first one after the server's return works."""
    away = World(tmp_path)
    with away.bridged() as client:
        for number, method in enumerate(("server/discover", "tools/list", "ping")):
            error = client.ask(number, method, {"_meta": MODERN})["error"]
            assert error == {"code": -32000, "message": "the server did not answer: ConnectError"}
        with away.served():
            assert client.call(4, "plain", MODERN) == (False, "plain {} by test/agent")
        assert client.ask(5, "ping", {"_meta": MODERN})["error"]["code"] == -32000


@pytest.mark.slow
def test_what_is_no_message_is_answered(client: Client) -> None:
    """An error each, and the bridge goes on."""
    for line, code in (
        (b"hello", -32700),
        (b"[]", -32600),
        (b'{"id": 1.5, "method": "ping"}', -32600),
        (b"{}", -32600),
    ):
        client.raw(line)
        error = client.receive(lambda message: message.get("id", 0) is None)["error"]
        assert error["code"] == code, line
    client.raw(b"")
    assert client.ask(1, "ping")["result"] == {}


@pytest.mark.slow
def test_a_request_with_two_meanings_is_answered_by_its_id(client: Client) -> None:
    """The bridge reads as strictly as the gateway, and no client waits for an answer that does not come."""
    head = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{'
    for params in (b'"name":"plain","name":"other"', b'"name":"plain","Arguments":{}', b'"name":"plain","n":1e999'):
        client.raw(head + params + b"}}")
        error = client.receive(lambda message: message.get("id") == 7)["error"]
        assert error["code"] == -32600, params
    assert client.call(8, "plain")[0] is False


@pytest.mark.slow
def test_a_bundle_that_is_written_anew_is_used(world: World, client: Client) -> None:
    """A task that was extended needs no new bridge."""
    world.write_bundle(RULES[0])
    assert client.call(1, "plain")[0] is True
    world.write_bundle()
    assert client.call(2, "plain")[0] is False


def test_no_token_leaves_the_bridge(world: World, client: Client) -> None:
    """Neither stdout nor stderr has one, whatever fails."""
    client.call(1, "get", order_id="o-1")
    client.call(2, "refund", order_id="o-1", amount=50)
    client.raw(b"hello")
    world.bundle.write_text("arxb1_broken")
    client.call(3, "get", order_id="o-1")
    client.close()
    seen = "".join(client.texts) + b"".join(client.errors).decode()
    assert "the changed bundle is not used" in seen
    assert "arx1_" not in seen
    assert "arxb1_" not in seen.replace("begins with arxb1_", "")


@pytest.mark.slow
def test_a_bundle_or_a_url_that_cannot_be_used_ends_the_bridge(world: World) -> None:
    """Before anything is read from the client."""
    other = world.folder / "other.bundle"
    cases = []
    world.task(ttl_ms=1).save(other)
    time.sleep(0.002)
    cases.append((["--task", str(other), world.url], 1, "the task has expired"))
    cases.append((["--task", str(world.folder / "none"), world.url], 2, "cannot be read"))
    cases.append((["--task", str(world.bundle), "http://127.0.0.1:9/mcp"], 2, "belongs to no audience of this task"))
    cases.append((["--task", str(world.bundle), "--only", "orders.drop", world.url], 2, "orders.drop"))
    cases.append((["--task", str(world.bundle), "ftp://127.0.0.1/mcp"], 2, "expected one such as https://"))
    for words, code, text in cases:
        client = Client(*words)
        assert client.close() == code, words
        assert text in b"".join(client.errors).decode()
    world.bundle.chmod(0o644)
    client = Client("--task", str(world.bundle), world.url)
    assert client.close() == 2
