# SPDX-License-Identifier: Apache-2.0
"""A stock MCP client, without anything of ARx: ``python mcp_agent.py CALLS COMMAND…``, with the SDK of MCP.

It starts the command, an MCP server over stdio, and writes one JSON object: the answer to ``tools/list``, and for each
of CALLS, a JSON list of tool and arguments, whether it succeeded and its text.
"""

import json
import sys
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def main(calls: list[tuple[str, dict[str, Any]]], command: list[str]) -> None:
    """List the tools, and make the calls."""
    async with Client(StdioServerParameters(command=command[0], args=command[1:])) as client:
        listed = (await client.list_tools()).model_dump(by_alias=True, exclude_none=True, mode="json")
        done = []
        for tool, arguments in calls:
            answer = await client.call_tool(tool, arguments)
            text = " ".join(part.text for part in answer.content if part.type == "text")
            done.append([tool, not answer.is_error, text])
        print(json.dumps({"listed": listed, "done": done}))


anyio.run(main, json.loads(sys.argv[1]), sys.argv[2:])
