# SPDX-License-Identifier: Apache-2.0
"""Processes of an upstream over stdio: each is in a table, ends with its children, and an agent has not too many."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.mcp import stdio as mcp_stdio
from arx_caps.gateway.mcp.stdio import StdioUpstream
from tests.gateway.door import CALL
from tests.gateway.served_door import ENVELOPE
from tests.servers import until

pytestmark = pytest.mark.servers
# Answers each request with the process of a child that ignores the end of its input.
SERVER = """
import json, subprocess, sys
child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
for line in sys.stdin:
    message = json.loads(line)
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"child": child.pid}}), flush=True)
"""
# Confirms both subscriptions, and then has an event and the end for each, the last one first.
PUBLISHER = """
import json, sys
KEY, numbers = "io.modelcontextprotocol/subscriptionId", []
def write(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        numbers.append(message["id"])
        write(method="notifications/subscriptions/acknowledged", params={"_meta": {KEY: numbers[-1]}})
    if len(numbers) == 2:
        for number in reversed(numbers):
            write(method="notifications/tools/list_changed", params={"_meta": {KEY: number}})
            write(id=number, result={"_meta": {KEY: number}})
        numbers.clear()
"""
# Answers each request with the error that its method names.
REFUSING = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    error = {"code": int(message["method"]), "message": "no"}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}), flush=True)
"""
STATELESS = [(b"mcp-protocol-version", b"2026-07-28")]
OWNER = "session\0acme/a\0"


def run(tmp_path: Path, use: Callable[[StdioUpstream], Awaitable[None]], server: str = SERVER) -> None:
    terms = UpstreamTerms(audience="orders", command=(sys.executable, "-c", server), isolation="none")

    async def main() -> None:
        upstream = StdioUpstream("orders", terms, tmp_path)
        upstream.open()
        try:
            await use(upstream)
        finally:
            await upstream.close()

    asyncio.run(main())


async def ask(upstream: StdioUpstream, method: str, owner: str = OWNER) -> int:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": ENVELOPE}}).encode()
    async with upstream.send("POST", [] if method == "initialize" else STATELESS, body, owner, call=CALL) as answer:
        parts = [part async for part in answer.iter_any()]
    return int(json.loads(b"".join(parts))["result"]["child"])


def test_calls_of_one_caller_start_one_process(tmp_path: Path) -> None:
    """Also when they come at once; it ends with its children."""
    children: set[int] = set()

    async def use(upstream: StdioUpstream) -> None:
        children.update(await asyncio.gather(*(ask(upstream, "ping") for _ in range(4))))

    run(tmp_path, use)
    assert len(children) == 1
    until(lambda: not [child for child in children if is_running(child)])  # a kill takes a moment


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_agent_has_a_limit_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its delegations count as its own; another agent has processes of its own."""
    monkeypatch.setattr(mcp_stdio, "_PROCESSES", 2)

    async def use(upstream: StdioUpstream) -> None:
        await ask(upstream, "initialize")
        await ask(upstream, "initialize", OWNER + "\0acme/b")
        with pytest.raises(UpstreamError, match="end a session"):
            await ask(upstream, "initialize")
        await ask(upstream, "initialize", "session\0acme/c\0")

    run(tmp_path, use)


def test_each_subscription_gets_its_own_events(tmp_path: Path) -> None:
    """They name the id with which its client has subscribed, which another client may use as well."""
    key, streams = "io.modelcontextprotocol/subscriptionId", []

    async def listen(upstream: StdioUpstream, identity: str) -> None:
        about = {"jsonrpc": "2.0", "id": identity, "method": "subscriptions/listen", "params": {"_meta": ENVELOPE}}
        body = json.dumps(about).encode()
        async with upstream.send("POST", STATELESS, body, OWNER, call=CALL) as answer:
            events = b"".join([part async for part in answer.iter_any()]).decode().split("\n\n")
        messages = [json.loads(event.partition("data: ")[2]) for event in events if event]
        named = [(message.get("params") or message["result"])["_meta"][key] for message in messages]
        streams.append((identity, named, [message.get("method", message.get("id")) for message in messages]))

    async def use(upstream: StdioUpstream) -> None:
        await asyncio.gather(listen(upstream, "listen-1"), listen(upstream, "listen-2"))

    run(tmp_path, use, PUBLISHER)
    for identity, named, came in streams:
        assert named == [identity] * 3
        assert came == ["notifications/subscriptions/acknowledged", "notifications/tools/list_changed", identity]
    assert len(streams) == 2


VERSION, CAPABILITIES = sorted(ENVELOPE, reverse=True)


@pytest.mark.parametrize(
    ("method", "meta", "code", "status"),
    [
        ("ping", {}, -32602, 400),
        ("ping", {VERSION: "2026-07-28"}, -32602, 400),
        ("ping", {VERSION: 7, CAPABILITIES: {}}, -32602, 400),
        ("initialize", ENVELOPE, -32601, 404),
    ],
)
def test_a_process_gets_no_request_of_another_revision(
    tmp_path: Path, method: str, meta: dict[str, Any], code: int, status: int
) -> None:
    """It speaks the revision of its first one: the caller could reach it no more."""

    async def use(upstream: StdioUpstream) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta}}).encode()
        async with upstream.send("POST", STATELESS, body, OWNER, call=CALL) as answer:
            parts = [part async for part in answer.iter_any()]
        assert (answer.status, json.loads(b"".join(parts))["error"]["code"]) == (status, code)
        assert not upstream._callers

    run(tmp_path, use)


@pytest.mark.parametrize(
    ("code", "status"), [(-32601, 404), (-32602, 400), (-32020, 400), (-32022, 400), (-32603, 200), (-32001, 200)]
)
def test_an_error_of_a_process_has_the_status_of_http(tmp_path: Path, code: int, status: int) -> None:
    """As MCP 2026-07-28 demands of a server over HTTP, which the gateway is for the client."""

    async def use(upstream: StdioUpstream) -> None:
        about = {"jsonrpc": "2.0", "id": 1, "method": str(code), "params": {"_meta": ENVELOPE}}
        async with upstream.send("POST", STATELESS, json.dumps(about).encode(), OWNER, call=CALL) as answer:
            pass
        assert answer.status == status

    run(tmp_path, use, REFUSING)
