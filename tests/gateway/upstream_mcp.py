# SPDX-License-Identifier: Apache-2.0
"""An MCP server over stdio in the standard library, for the tests of a machine without an SDK.

``tests/adapters`` has the tests with the servers of the SDK.
"""

import json
import os
import sys
import time
from typing import Any

TOOLS = [
    {"name": "get", "inputSchema": {"type": "object", "properties": {"order_id": {"type": "string"}}}},
    {"name": "drop", "inputSchema": {"type": "object"}},
    {"name": "wait", "inputSchema": {"type": "object"}},
    {"name": "secret", "inputSchema": {"type": "object"}},
]


def write(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the gateway has ended this process
        os._exit(0)


def answer(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params", {})
    if message["method"] == "initialize":
        about = {"serverInfo": {"name": "orders", "version": "1"}, "capabilities": {"tools": {}}}
        return {"protocolVersion": "2025-11-25", **about}
    if message["method"] == "tools/list":
        return {"tools": TOOLS}
    if params.get("name") == "wait":
        while True:
            write(
                {
                    "method": "notifications/progress",
                    "params": {"progressToken": params["_meta"]["progressToken"], "progress": 1},
                }
            )
            time.sleep(0.1)
    text = {"get": f"{params['arguments'].get('order_id')} is on its way", "secret": str("UPSTREAM_KEY" in os.environ)}
    return {"content": [{"type": "text", "text": text.get(params["name"], "dropped")}]}


for line in sys.stdin:
    read = json.loads(line)
    if "id" in read:
        result = answer(read)
        if "io.modelcontextprotocol/protocolVersion" in read.get("params", {}).get("_meta", {}):  # MCP 2026-07-28
            result |= {"resultType": "complete"} | ({"ttlMs": 0, "cacheScope": "private"} if "tools" in result else {})
        write({"id": read["id"], "result": result})
