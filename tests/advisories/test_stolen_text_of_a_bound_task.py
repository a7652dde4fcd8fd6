# SPDX-License-Identifier: Apache-2.0
"""A thief of the text of a bound token must not use, delegate or exchange it, nor a thief of the key alone.

Here at an embedded verifier and at a gateway; ``tests/mint/test_bound_tasks.py`` has the same of an exchange.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_verifier import Rule
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token import CallSigner, HolderKey, Macaroon, call_proof, chain, http_fields, tool_fields, wire
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder, call_tool, open_door
from tests.stolen import THIEF, stolen_calls, stolen_delegation

HOLDER, WORKER = HolderKey(b"h" * 32), HolderKey(b"w" * 32)
RULES = (Rule(tool="orders.get", args={"order_id": "o-1"}), Rule(tool="orders.note", open=True, args={}))
GET = HttpCall("GET", b"/orders/orders/o-1", hashlib.sha256(b"").digest())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def tokens(caller: UnsafeCaller) -> list[Macaroon]:
    """The task's token, and one that was delegated."""
    return [caller.macaroon, caller.delegate("test/worker", key=WORKER).macaroon]


def test_at_an_embedded_verifier() -> None:
    """Bare, called with a guess or a key of the thief, delegated by the thief: refused, seen or not."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES, key=HOLDER)
    request = AccessRequest("orders.get", {"order_id": "o-1"}, now_ms())
    fields = tool_fields(request.tool, request.args)
    for seen in (False, True):
        for token, key in zip(tokens(caller), (HOLDER, WORKER), strict=True):
            if seen:
                text = CallSigner(token, "orders", key).sign(fields, request.at)
                assert realm.verifier.decide(text, request).code == "ok"
            assert realm.verifier.decide(token.encode(), request).code == "proof_missing"
            for code, text in stolen_calls(token, fields, request.at).items():
                assert realm.verifier.decide(text, request).code == code.partition(",")[0]
            forged = stolen_delegation(token, "test/thief")
            text = CallSigner(forged, "orders", THIEF).sign(fields, request.at)
            assert realm.verifier.decide(text, request).code == "bad_signature"


def test_the_key_without_the_text() -> None:
    """Who has the holder's key makes no token of it, and the proof of one token is of no use in another one."""
    realm = UnsafeTestRealm("orders")
    request = AccessRequest("orders.get", {"order_id": "o-1"}, now_ms())
    wide, narrow = realm.caller(*RULES, key=HOLDER), realm.caller(Rule(tool="orders.note", args={}), key=HOLDER)
    call = call_proof.split_call(narrow.token("orders.get", order_id="o-1"))
    assert call is not None
    body, signature = chain.appended(*wide.macaroon.parts(), call.caveat)
    moved = wire.TOKEN_PREFIX + wire.text_of(body + wire.TAIL + signature)
    assert realm.verifier.decide(moved, request).code == "proof_invalid"
    assert realm.verifier.decide(wide.token("orders.get", order_id="o-1"), request).code == "ok"


@pytest.mark.servers
@pytest.mark.spec("16.3")
def test_at_a_gateway(tmp_path: Path) -> None:
    """Before an HTTP service and before an MCP server: only the holder's calls arrive."""
    realm, recorder = UnsafeTestRealm("orders"), Recorder()
    caller = realm.caller(*RULES, key=HOLDER)
    with serving(recorder) as port:
        upstream: dict[str, Any] = {"url": f"http://127.0.0.1:{port}"}
        routes = {"GET /orders/{order_id}": "orders.get"}
        with open_door(realm, tmp_path, routes=routes, **upstream) as url:
            target = httpx.URL(f"{url}/orders/o-1").raw_path
            fields = http_fields(GET._replace(target=target))
            for token in tokens(caller):
                texts = {"proof_missing, bare": token.encode()} | stolen_calls(token, fields, now_ms())
                forged = CallSigner(stolen_delegation(token, "test/thief"), "orders", THIEF)
                texts["bad_signature"] = forged.sign(fields, now_ms())
                for code, text in texts.items():
                    told = httpx.get(f"{url}/orders/o-1", headers={"Authorization": f"Bearer {text}"}, timeout=30)
                    assert (told.status_code, told.json()["code"]) == (401, code.partition(",")[0])
            assert recorder.arrived == []
            for each in (caller, caller.delegate("test/worker", key=WORKER)):
                assert httpx.get(f"{url}/orders/o-1", auth=each, timeout=30).status_code == 200
            assert len(recorder.arrived) == 2
        with open_door(realm, tmp_path, **upstream) as url:
            assert call_tool(url, caller, "note").status_code == 200
            (_, body), count = recorder.arrived[-1], len(recorder.arrived)
            assert b"note" in body
            for text in stolen_calls(caller.macaroon, tool_fields("orders.note", {}), now_ms()).values():
                message = {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "tools/call",
                    "params": {"name": "note", "arguments": {}},
                }
                message["params"]["_meta"] = {"dev.arx/cap": text}  # type: ignore[index]
                headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
                assert httpx.post(url, json=message, headers=headers, timeout=30).status_code in (200, 401, 403)
            assert len(recorder.arrived) == count
