# SPDX-License-Identifier: Apache-2.0
"""A client with a token of another login, or with none, read an error at a gateway and was not sent to log in.

A text that is no access token of this realm got 200 and an error of JSON-RPC; a fault of headers without a token got
400.  MCP and RFC 6750 want 401 for both, and clients log in at a 401 alone.  The challenge names the scopes now.
"""

import json
from typing import Any

import httpx
import pytest

from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream
from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld

OTHERS = {
    "an opaque token": ["Bearer gho_16C7e42F292c6912E7710c838347Ae178B4a"],
    "a form of a JWT": ["Bearer a.b.c"],
    "an ARx token of another realm": ["Bearer arx1_AAAA"],
    "a text with spaces": ["Bearer a b"],
    "a long one": ["Bearer " + "x" * 5_000],
    "with a proof": ["DPoP gho_16C7e42F292c6912E7710c838347Ae178B4a"],
    "twice": ["Bearer a.b.c", "Bearer a.b.c"],
}
HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get", "arguments": {}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    yield from started(OAuthWorld(tmp_path_factory.mktemp("login")))


@pytest.mark.servers
@pytest.mark.spec("CONTROL 5.5")
@pytest.mark.parametrize("other", OTHERS)
def test_a_token_of_another_login_is_a_401(world: OAuthWorld, other: str) -> None:
    """At an MCP server, for each message, and at a plain HTTP service; the challenge says where to log in."""
    headers = [("accept", "application/json, text/event-stream"), *(("authorization", each) for each in OTHERS[other])]
    billing, orders = world.url("billing"), world.url("orders")
    answers = [httpx.post(orders, json=message, headers=headers) for message in (HELLO, CALL)]
    answers += [httpx.get(orders, headers=headers), httpx.get(f"{billing}/orders/o-1", headers=headers)]
    for answer in answers:
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        parts = ('error="invalid_', "resource_metadata=", 'scope="refund"')
        assert [part for part in parts if part not in challenge] == []


@pytest.mark.servers
@pytest.mark.spec("CONTROL 5.5")
def test_a_client_without_a_token_learns_the_scopes(world: OAuthWorld) -> None:
    """As the resource's metadata have them; a request without a credential has no error code."""
    for answer in (httpx.post(world.url("orders"), json=HELLO), httpx.get(f"{world.url('billing')}/orders/o-1")):
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert 'scope="refund"' in challenge
        assert "error=" not in challenge


@pytest.mark.slow
@pytest.mark.parametrize("credential", ["", "Bearer gho_16C7e42F"])
@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-method": "tools/list"},
        {"content-type": "text/plain"},
        {"mcp-protocol-version": "2026-07-28"},
        {"mcp-session-id": "a", "Mcp-Session-Id": "b"},
    ],
)
@pytest.mark.spec("11")
def test_a_fault_of_headers_is_a_401_for_a_stranger(headers: dict[str, str], credential: str) -> None:
    """So is a body that is no message; who has a token in the message learns what is wrong."""
    door = Door(UnsafeTestRealm("files"), Upstream(lambda _: Answer(b"{}")))
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    pairs += [(b"authorization", credential.encode())] if credential else []
    for body in (json.dumps(CALL).encode(), b"[]", b"{", b""):
        heads: list[tuple[bytes, bytes]] = []
        assert door.ask(body, *pairs, heads=heads)[0] == 401
        assert b"www-authenticate" in dict(heads)
    if not credential:
        meant = {**CALL, "params": {**CALL["params"], "_meta": {"dev.arx/cap": "x"}}}  # type: ignore[dict-item]
        assert door.ask(json.dumps(meant).encode(), *pairs)[0] == 400
