# SPDX-License-Identifier: Apache-2.0
"""``arx connect --listen``: HTTP clients of this machine call guarded servers through a secret path."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cli.helpers import arx
from tests.connect.conftest import MODERN, WAIT_S, World

pytestmark = pytest.mark.servers
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@contextlib.contextmanager
def listening(*words: str) -> Iterator[list[str]]:
    """Run the bridge and yield its addresses."""
    command = [sys.executable, "-m", "arx_caps.cli", "connect", "--listen", "127.0.0.1:0", "--json", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line, process.communicate()
        yield list(json.loads(line)["servers"].values())
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (0, "")
    assert "arx1_" not in err
    assert urlsplit(json.loads(line)["servers"].popitem()[1]).path.split("/")[1] not in err


@pytest.fixture
def address(world: World) -> Iterator[str]:
    """The address of the endpoint at a bridge."""
    with listening("--task", str(world.bundle), world.url) as (found,):
        yield found


def message(identity: int, method: str, **params: Any) -> dict[str, Any]:
    """A request of the stateless revision."""
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": {"_meta": MODERN, **params}}


def headers(rpc: dict[str, Any]) -> dict[str, str]:
    """Its headers."""
    own = ACCEPT | {"mcp-protocol-version": "2026-07-28", "mcp-method": rpc["method"]}
    params = rpc["params"]
    own |= {"mcp-name": params["name"]} if "name" in params else {}
    order = params.get("arguments", {}).get("order_id")
    return own | ({"mcp-param-order": order} if order else {})


def ask(address: str, identity: int, method: str, **params: Any) -> Any:
    """The answer to a request."""
    rpc = message(identity, method, **params)
    found = httpx.post(address, headers=headers(rpc) | {"authorization": "Bearer mine"}, json=rpc, timeout=WAIT_S)
    assert found.status_code == 200
    assert found.json()["id"] == identity
    return found.json()


def test_a_call_is_signed_and_another_one_is_not_sent(world: World, address: str) -> None:
    """The client's own Authorization stays here; what the server got replays as ``replayed``."""
    answer = ask(address, 1, "tools/call", name="get", arguments={"order_id": "o-1"})
    assert answer["result"]["content"][0]["text"] == 'get {"order_id": "o-1"} by test/agent'
    captured = world.endpoint.seen[-1]
    assert "mine" not in captured.headers["authorization"]
    again = httpx.post(world.url, headers=captured.headers, content=captured.body).json()
    assert again["error"]["data"]["code"] == "replayed"
    refused = ask(address, 2, "tools/call", name="refund", arguments={"order_id": "o-1", "amount": 50})["result"]
    assert refused["isError"]
    assert "amount must be at most 20, got 50" in refused["content"][0]["text"]
    assert [tool["name"] for tool in ask(address, 3, "tools/list")["result"]["tools"]][:3] == ["get", "refund", "wait"]
    assert world.endpoint.ran == ["get"]


def test_a_wrong_header_is_the_servers_to_refuse(world: World, address: str) -> None:
    """Headers pass as they came, also one that was sent twice."""
    rpc = message(1, "ping")
    wrong = [*headers(rpc).items(), ("mcp-method", "tools/list")]
    found = httpx.post(address, headers=wrong, json=rpc)
    assert (found.status_code, found.json()["error"]["code"]) == (400, -32020)
    assert httpx.post(address, headers=ACCEPT, content=b"no json").status_code >= 400


def test_a_stream_is_passed_on_and_ends_with_a_kill(world: World, address: str) -> None:
    """Its events come as they are sent; a client that leaves ends the call."""
    rpc = message(1, "tools/call", name="wait")
    with httpx.stream("POST", address, headers=headers(rpc), json=rpc, timeout=WAIT_S) as stream:
        lines = stream.iter_lines()
        assert "notifications/progress" in "".join(next(lines) for _ in range(3))
    world.wait_for("cancelled")
    with httpx.stream("POST", address, headers=headers(rpc), json=rpc, timeout=WAIT_S) as stream:
        lines = stream.iter_lines()
        assert "notifications/progress" in "".join(next(lines) for _ in range(3))
        world.realm.epochs.kill("task:t-test")
        assert "Stop now" in "".join(lines)


def test_a_session_of_2025_passes(world: World, address: str) -> None:
    """Its id, its event stream and its end; the requests without a message are signed as well."""
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    opened = httpx.post(address, headers=ACCEPT, json=rpc)
    session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    world.endpoint.push.put_nowait({"jsonrpc": "2.0", "method": "notifications/message"})
    with httpx.stream("GET", address, headers=session | {"accept": "text/event-stream"}, timeout=WAIT_S) as stream:
        assert any("notifications/message" in line for line in stream.iter_lines())
    told = httpx.post(address, headers=ACCEPT | session, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert told.status_code == 202
    assert httpx.delete(address, headers=session).status_code == 204
    assert world.endpoint.sessions == set()
    assert all(seen.headers["authorization"].startswith("Bearer arx1_") for seen in world.endpoint.seen)


def test_other_users_and_pages_of_a_browser_are_kept_out(world: World, address: str) -> None:
    """Without the path, with another Host, or from another origin, nothing reaches the server."""
    place = urlsplit(address)
    rpc = message(1, "ping")
    cases: list[tuple[str, dict[str, str], int]] = [
        (f"http://{place.netloc}/orders", {}, 404),
        (f"http://{place.netloc}/x/orders", {}, 404),
        (f"{address}/more", {}, 404),
        (address[:-1], {}, 404),
        (address, {"host": f"attacker.example:{place.port}"}, 403),
        (address, {"host": "127.0.0.1"}, 403),
        (address, {"origin": "https://attacker.example"}, 403),
        (address, {"origin": "null"}, 403),
    ]
    for url, more, status in cases:
        assert httpx.post(url, headers=headers(rpc) | more, json=rpc).status_code == status, (url, more)
    assert httpx.put(address, json=rpc).status_code == 405
    assert world.endpoint.seen == []
    own = {"origin": f"http://localhost:{place.port}", "host": f"localhost:{place.port}"}
    assert httpx.post(address, headers=headers(rpc) | own, json=rpc).status_code == 200


def test_each_server_has_an_address(world: World) -> None:
    """Two servers of one task; ``--path`` sets the first part."""
    with listening("--task", str(world.bundle), "--path", "fixed", world.url, f"again={world.url}") as both:
        assert [urlsplit(each).path for each in both] == ["/fixed/orders", "/fixed/again"]
        for each in both:
            assert ask(each, 1, "tools/call", name="plain")["result"]["content"][0]["text"] == "plain {} by test/agent"
    assert world.endpoint.ran == ["plain", "plain"]


def test_paths_differ_in_each_run(world: World) -> None:
    """A random path has 192 bits."""
    found = set()
    for _ in range(2):
        with listening("--task", str(world.bundle), world.url) as (address,):
            found.add(urlsplit(address).path.split("/")[1])
    assert len(found) == 2
    assert {len(each) for each in found} == {32}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--listen", "0.0.0.0:0"], "expected a loopback address such as 127.0.0.1:8080, got '0.0.0.0:0'"),
        (["--listen", "orders.example:80"], "expected a loopback address"),
        (["--listen", "127.0.0.1:x"], "expected a loopback address"),
        (["--listen", "127.0.0.1:" + "9" * 5000], "expected a loopback address"),
        (["--listen", "127.0.0.1:99999"], "expected a loopback address"),
        (["--path", "fixed"], "need --listen"),
        (["--listen", "127.0.0.1:0", "--path", "a/b"], "expected at most 64 characters"),
        (["--listen", "127.0.0.1:0", "--print-config", "claude"], "--print-config is for stdio"),
    ],
)
def test_what_cannot_be_served_ends_the_command(world: World, words: list[str], text: str) -> None:
    """Before an address is printed."""
    ran = arx("connect", "--task", str(world.bundle), *words, world.url)
    assert ran.exit_code == 2
    assert text in ran.err


def test_two_servers_need_two_names(world: World) -> None:
    """The service's name counts once."""
    ran = arx("connect", "--task", str(world.bundle), "--listen", "127.0.0.1:0", world.url, world.url)
    assert ran.exit_code == 2
    assert "two servers are called orders" in ran.err


def test_white_space_around_a_header_is_none_of_it(world: World, address: str) -> None:
    """RFC 9110 5.5; a client may send it."""
    rpc = message(1, "tools/call", name="plain", arguments={})
    place = urlsplit(address)
    with contextlib.closing(http.client.HTTPConnection(place.netloc, timeout=WAIT_S)) as client:
        client.request("POST", place.path, json.dumps(rpc), headers(rpc) | {"mcp-name": " \tplain "})
        assert b"result" in client.getresponse().read()
    assert world.endpoint.seen[-1].headers["mcp-name"] == "plain"
