# SPDX-License-Identifier: Apache-2.0
"""A stock MCP client: the official SDK's, without anything of ARx.  ``gateway.py`` starts it.

``python stock_client.py PLAN`` takes a JSON object: ``server`` and ``bridge`` are commands of MCP servers over stdio,
``url`` is the address of one over HTTP, and ``allowed``, ``refused``, ``hidden`` and ``long`` are calls of tools, the
last one null for a subscription.  It writes what came of each step as one JSON object a line.
"""

import json
import sys
import time
from typing import Any

import anyio
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.client.subscriptions import SubscriptionLost

LIMIT_S = 60  # a stream that no kill ends must not keep the demo waiting

Call = tuple[str, dict[str, Any]]


def report(step: str, text: str, **more: Any) -> None:
    """Write one line: the first sentence is what came of the step, the others are why."""
    came, _, why = text.partition(". ")
    print(json.dumps({"step": step, "came": came, "why": [why] if why else [], **more}), flush=True)


def over_stdio(command: list[str]) -> Client:
    """Return a client that starts a command and speaks MCP with it over stdio."""
    return Client(StdioServerParameters(command=command[0], args=command[1:]))


async def names(client: Client) -> list[str]:
    """Return the names of all tools that the client is shown."""
    return sorted(tool.name for tool in (await client.list_tools()).tools)


async def call(client: Client, tool: str, arguments: dict[str, Any], **options: Any) -> str:
    """Call a tool and return what the model would read: the result, or why there is none."""
    answer = await client.call_tool(tool, arguments, **options)
    return " ".join(part.text for part in answer.content if part.type == "text")


async def connect(url: str) -> str:
    """Connect to a server over HTTP and return what it says to that."""
    try:
        async with Client(url):
            return "connected"
    except* MCPError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        refusal = str(error)
    return refusal


async def stream(client: Client, long: Call | None) -> str:
    """Receive a stream until it ends, and return how it ended."""
    if long is None:
        try:
            async with client.listen(tools_list_changed=True) as subscription:
                report("streaming", "a subscription is confirmed")
                async for _ in subscription:
                    pass
        except SubscriptionLost as lost:
            return str(lost.__cause__)
        return "the server ended it"

    async def progress(done: float, *_: Any) -> None:
        if done == 3:
            report("streaming", "a call has reported its progress three times")

    return await call(client, *long, progress_callback=progress)


async def main(plan: dict[str, Any]) -> None:
    """Look at a server without ARx, and work with it by ``arx connect`` and the gateway."""
    async with over_stdio(plan["server"]) as client:
        report("an unmodified MCP server has its tools", f"{len(await names(client))} tools")
    report("a client goes to the gateway without a token", await connect(plan["url"]))
    async with over_stdio(plan["bridge"]) as client:
        report("by arx connect, it is shown those of its task", ", ".join(await names(client)))
        report("it calls one of them", await call(client, *plan["allowed"]))
        report("it calls this one with another argument", await call(client, *plan["refused"]))
        report("it calls a tool that is hidden from it", await call(client, *plan["hidden"]))
        with anyio.fail_after(LIMIT_S):
            ended = await stream(client, plan["long"])
        report("the kill ends its open stream", ended, at_ms=1000 * time.time())
        report("it calls the first tool again", await call(client, *plan["allowed"]))


anyio.run(main, json.loads(sys.argv[1]))
