# SPDX-License-Identifier: Apache-2.0
"""A holder could have one call, or one approval, accepted twice while a gateway read its file again.

The verifier of a changed upstream had a memory of used calls of its own.  A request that was still being sent at the
reload was decided on by the verifier before.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import read_settings
from arx_caps.gateway.gateway import Gateway
from arx_verifier import Rule
from tests.adapters.asgi_server import serving
from tests.gateway.gateway_realm import AUDIENCE, ENVELOPE, GatewayRealm
from tests.gateway.served_door import Recorder

pytestmark = pytest.mark.servers
TABLE = '[upstream.orders]\naudience = "orders"\nurl = "http://127.0.0.1:{}/mcp"\ntimeout = "{}s"\n'


async def ask(gateway: Gateway, body: bytearray, reached: asyncio.Event, held: asyncio.Event) -> bytes:
    """Send a request whose body arrives later, and return its answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        reached.set()
        await held.wait()
        return {"type": "http.request", "body": bytes(body)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [], "client": None, "path": "/orders", "query_string": b""}
    await gateway({**scope, "raw_path": b"/orders"}, receive, send)
    return b"".join(each.get("body", b"") for each in sent)


def test_a_call_is_accepted_once_before_and_after_a_reload(
    tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """By the upstream that a request has reached before it, and by the one that took its place."""
    realm, upstream = GatewayRealm(tmp_path, valkey.url, name=realm_name), Recorder()
    service = tmp_path / f"{AUDIENCE}.json"
    facts = json.loads(service.read_text())
    del facts["nonces"]
    service.write_text(json.dumps(facts))

    async def run(port: int) -> list[bytes]:
        gateway = Gateway(read_settings(realm.write(TABLE.format(port, 10), port=1)))
        async with gateway.running():
            reached, held = asyncio.Event(), asyncio.Event()
            body = bytearray()
            before = gateway.upstreams["orders"]
            first = asyncio.ensure_future(ask(gateway, body, reached, held))
            await reached.wait()
            await gateway.reload(read_settings(realm.write(TABLE.format(port, 20), port=1)))
            assert gateway.upstreams["orders"] is not before
            token = realm.caller(Rule(tool="orders.note"), session="s-1").token("orders.note")
            params = {"name": "note", "_meta": {**ENVELOPE, "dev.arx/cap": token}}
            body += json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
            held.set()
            return [await first, await ask(gateway, body, reached, held)]

    with serving(upstream) as port:
        allowed, refused = asyncio.run(run(port))
    assert (b"tools" in allowed, b"replayed" in refused) == (True, True)
    assert len(upstream.arrived) == 1
