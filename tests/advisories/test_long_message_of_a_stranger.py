# SPDX-License-Identifier: Apache-2.0
"""A stranger could keep a gateway busy with one long message: it was parsed before its token was looked for.

One MiB took a fifth of a second of the event loop, which checks the streams of all others.  It was also kept whole for
each stranger.  Now more than 16 KiB of a message is read once the token in its header is known to be of the audience.
"""

import asyncio
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from arx_caps.gateway.mcp import door as mcp_door
from arx_verifier import Rule
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed
from tests.gateway.served_door import open_door

LONG = {"text": "x" * 20_000}


def body_of(**meta: str) -> bytes:
    params: dict[str, Any] = {"name": "get", "arguments": LONG, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


@pytest.mark.spec("11")
def test_it_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token, and with one that no key signed: in the header, in the message."""
    parsed: list[bytes] = []
    monkeypatch.setattr(mcp_door, "read_message", parsed.append)
    door = Door(UnsafeTestRealm("files"), Upstream(lambda _: Answer(b"{}")))
    other = UnsafeTestRealm("files").caller(Rule(tool="files.get"))
    body = body_of()
    assert (door.ask(body)[0], door.ask(body, signed(other, body))[0]) == (401, 401)
    assert door.ask(body_of(**{META_KEY: "nonsense"}))[0] == 401
    assert parsed == []


def test_a_long_call_of_a_holder_runs() -> None:
    """Its token is in the header; one in the message is for shorter ones, as the answer explains."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get", open=True))
    door = Door(realm, Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')))
    assert "result" in door.message(caller, "tools/call", {"name": "get", "arguments": LONG})
    status, data = door.ask(body_of(**{META_KEY: caller.token("files.get", **LONG)}))
    assert (status, json.loads(data)["code"]) == (401, "missing_token")
    assert (
        json.loads(data)["detail"] == "a message of more than 16384 bytes needs its token in the header Authorization"
    )


@pytest.mark.spec("11")
def test_it_is_not_kept(tmp_path: Path) -> None:
    """A stranger whose long message does not end has an answer once it is too long to be one with a token."""
    realm, sent = UnsafeTestRealm("orders"), b"x" * 65_536
    other = UnsafeTestRealm("orders").caller(Rule(tool="orders.get")).token("orders.get")
    heads = ["", f"authorization: Bearer {other}\r\n", "authorization: Bearer a.b.c\r\n"]

    async def ask(port: int, head: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        length = "content-length: 1048576\r\n\r\n"
        writer.write(f"POST /orders HTTP/1.1\r\nhost: a\r\n{head}{length}".encode() + sent)
        try:
            async with asyncio.timeout(10):
                return await reader.readline()
        finally:
            writer.close()

    async def all_of(port: int) -> list[bytes]:
        return await asyncio.gather(*(ask(port, head) for head in heads for _ in range(8)))

    with open_door(realm, tmp_path, url="http://127.0.0.1:1") as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        assert {line.split(b" ")[1] for line in asyncio.run(all_of(port))} == {b"401"}


@pytest.mark.parametrize("head", [b"", b"[", b'{"a":"', b'{"dev.arx/cap":"'])
@pytest.mark.parametrize("size", [16_000, 65_536])
def test_nothing_of_it_stays(head: bytes, size: int) -> None:
    """After the answer, also before the garbage of reference cycles is collected, which is seldom."""
    door = Door(UnsafeTestRealm("files"), Upstream(lambda _: Answer(b"{}")))

    def ask() -> None:
        assert door.ask(head + b"x" * (size - len(head)))[0] in (400, 401)

    ask()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(64):
            ask()
        assert tracemalloc.get_traced_memory()[0] - before < 16 * size
    finally:
        tracemalloc.stop()
        gc.enable()
