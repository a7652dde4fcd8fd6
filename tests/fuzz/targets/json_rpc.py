# SPDX-License-Identifier: Apache-2.0
"""Messages of MCP, as the gateway and the bridge read them: one message, one meaning.  JSON-RPC 2.0."""

import base64
import json
import re
from collections.abc import Iterator

from arx_caps.mcp.errors import WireError, status_of
from arx_caps.mcp.headers import check_headers
from arx_caps.mcp.message import read_message
from arx_verifier.enforcement.base.routes import collect_headers

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Read the lines before a blank one as headers, the rest as a message."""
    head, blank, rest = data.partition(b"\n\n")
    body = rest if blank else data
    lines = [line.partition(b":") for line in head.split(b"\n")] if blank else []
    headers = collect_headers([(name.lower(), value) for name, _, value in lines])
    try:
        message = read_message(body)
    except WireError as error:
        status = status_of(error.code)
    else:
        status = 0
        value = json.loads(body)
        assert (value.get("method", ""), value.get("id"), body) == (message.method, message.id, message.raw)
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
