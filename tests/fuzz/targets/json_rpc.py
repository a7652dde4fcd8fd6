# SPDX-License-Identifier: Apache-2.0
"""Messages of MCP at the gateway and at the bridge: one message, one meaning.  JSON-RPC 2.0."""

import base64
import json
import re
from collections.abc import Iterator

from arx_caps.mcp.mcp_wire import Incoming, WireError, check_headers, read_incoming, status_of
from arx_caps.mcp.rpc_message import RpcMessage, read_message
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.errors import RequestError

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Read the lines before a blank one as headers, the rest as a message."""
    head, blank, rest = data.partition(b"\n\n")
    body = rest if blank else data
    lines = [line.partition(b":") for line in head.split(b"\n")] if blank else []
    headers = collect_headers([(name.lower(), value) for name, _, value in lines])
    try:
        bridged = read_message(body)
    except RequestError:
        bridged = None
    try:
        message = read_incoming(body)
    except WireError as error:
        status = status_of(error.code)
    else:
        status = 0
        _compare(body, message, bridged)
    assert status == 0 or 200 <= status < 600
    if status:
        return
    try:
        check_headers(headers, message)
    except WireError:
        return
    # A proxy may route by these headers: they say what the body says.
    if b"mcp-method" in headers:
        text = headers[b"mcp-method"].decode("latin-1")
        form = re.fullmatch(r"=\?base64\?(.*)\?=", text)
        assert (base64.b64decode(form[1]).decode() if form else text) == message.method


def _compare(body: bytes, message: Incoming, bridged: RpcMessage | None) -> None:
    value = json.loads(body)
    assert (value.get("method", ""), value.get("id")) == (message.method, message.id)
    assert bridged is not None, "the gateway accepts what the bridge refuses"
    assert (bridged.method or "", bridged.id) == (message.method, message.id)


def seeds() -> Iterator[bytes]:
    """Return messages, and such with headers."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "refund", "arguments": {"amount": 5}}}
    for message in (
        call,
        call | {"id": "a", "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no"}},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"Arguments": {}}},
    ):
        yield json.dumps(message).encode()
    head = b"content-type:application/json\nmcp-protocol-version:2026-07-28\nmcp-method:tools/call\nmcp-name:refund"
    yield head + b"\n\n" + json.dumps(call).encode()
    yield head + b"\nmcp-param-amount:5\n\n" + json.dumps(call).encode()
    yield head.replace(b"refund", b"=?base64?cmVmdW5k?=") + b"\n\n" + json.dumps(call).encode()
    yield head.replace(b"tools/call", b"tools/list") + b"\n\n" + json.dumps(call).encode()
    yield head.replace(b"tools/call", b"=?base64?dG9vbHMvbGlzdA==?=") + b"\n\n" + json.dumps(call).encode()
    yield b"[" + json.dumps(call).encode() + b"]"
