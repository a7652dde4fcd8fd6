# SPDX-License-Identifier: Apache-2.0
"""The tools, resources and prompts of the tests' MCP servers, which the servers of each SDK declare alike."""

import asyncio
import threading
from typing import Any

import anyio.from_thread

from arx_verifier import current_grant


def add_tools(server: Any, context_type: Any, ran: list[str]) -> None:
    """Declare them, but for the tool that blocks a thread.

    Args:
        server: The server.
        context_type: The SDK's class for the context of a call: it finds the parameter by this type.
        ran: Gets the name of each tool that runs, and ``cancelled`` when one is.
    """

    @server.tool()
    async def get(order_id: str) -> str:
        ran.append("get")
        return f"{order_id} is on its way"

    @server.tool()
    def refund(order_id: str, amount: int) -> str:
        ran.append("refund")
        return f"{amount} for {order_id}"

    @server.tool()
    async def find(note: str | None = None) -> str:
        ran.append("find")
        return f"orders with {note!r}"

    @server.tool()
    def whoami() -> str:
        grant = current_grant()
        return "anonymous" if grant is None else grant.holder

    @server.tool()
    async def drop(order_id: str) -> str:
        ran.append("drop")
        return order_id

    @server.tool()
    async def flaky() -> str:
        ran.append("flaky")
        if ran.count("flaky") < 2:
            raise RuntimeError("not now")
        return "found"

    @server.tool()
    async def handed(context: context_type) -> str:
        """Return what the SDK gives to a tool, as text."""
        about = context.request_context
        return repr([about, vars(about), about.meta, vars(context)])

    @server.tool(name="wait.long")
    async def wait_long(context: context_type) -> str:
        ran.append("wait.long")
        await context.report_progress(1, 2)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise
        return "done"

    @server.resource("orders://terms")
    async def terms() -> str:
        return "thirty days"

    @server.resource("orders://secret")
    async def secret() -> str:
        return "a secret"

    @server.resource("orders://{order_id}")
    async def order(order_id: str) -> str:
        return f"order {order_id}"

    @server.prompt()
    def brief(order_id: str) -> str:
        return f"Describe {order_id}"

    @server.prompt()
    def hidden() -> str:
        return "hidden"


def add_blocking_tool(server: Any, context_type: Any, ran: list[str]) -> None:
    """Declare a tool that blocks its thread until its grant ends; the SDK 1.30 would block its event loop."""

    @server.tool(name="wait.blocking")
    def wait_blocking(context: context_type) -> str:
        ended = threading.Event()
        grant = current_grant()
        assert grant is not None
        grant.on_end(lambda _: ended.set())
        ran.append("wait.blocking")
        anyio.from_thread.run(context.report_progress, 1, 2)
        ran.append("ended" if ended.wait(60) else "not ended")
        return "done"
