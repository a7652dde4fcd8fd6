# SPDX-License-Identifier: Apache-2.0
"""The official MCP SDK, version 2: a server over streamable HTTP, and its client."""

from contextlib import AbstractContextManager
from typing import Any

from mcp import Client
from mcp.server import MCPServer

from benchmarks.compare import http_desk, stage
from benchmarks.compare.http_desk import calling, plain, tenuo_client, tenuo_sessions
from benchmarks.compare.stage import Desk, Framework, get_order, refund


def bare() -> MCPServer[Any]:
    """Return the server without a product."""
    server: MCPServer[Any] = MCPServer("orders", log_level="WARNING")
    server.tool(name="get")(get_order)
    server.tool(name="refund")(refund)
    return server


def arx_server() -> MCPServer[Any]:
    """Return the guarded server."""
    from arx_verifier import open_verifier
    from arx_verifier.integrations import mcp as arx_mcp

    arx = arx_mcp.ArxMcpMiddleware(open_verifier("orders.json"))
    server: MCPServer[Any] = MCPServer("orders", log_level="WARNING", middleware=[arx], lifespan=arx.lifespan)
    server.tool(name="get")(get_order)
    server.tool(name="refund")(refund)
    return server


def arx_clients(url: str) -> tuple[Any, Any]:
    """Return the clients of the desk and of its worker."""
    from arx_caps.agent import Agent
    from arx_caps.integrations.mcp import Client as ArxClient

    task = Agent.from_key_file("desk.json").open_session().start_task("desk")
    part = task.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})
    return ArxClient(url, task=task), ArxClient(url, task=part)


def tenuo_server(root: Any) -> MCPServer[Any]:
    """Return the guarded server; it trusts the key of ``root``."""
    from tenuo import HolderIdentity, Runtime
    from tenuo.mcp import MCPVerifier, TenuoServerMiddleware
    from tenuo.nonce import NonceStore

    runtime = Runtime(HolderIdentity.generate(), [root]).install()
    authorization = TenuoServerMiddleware(MCPVerifier(runtime=runtime, nonce_store=NonceStore()))
    server: MCPServer[Any] = MCPServer("orders", log_level="WARNING", middleware=[authorization])
    authorization.tool(server, name="get")(get_order)
    authorization.tool(server, name="refund")(refund)
    return server


def without() -> AbstractContextManager[Desk]:
    """The desk without a product."""
    return http_desk.desk(bare().streamable_http_app(), *[lambda url: calling(Client(url))] * 2)


def tenuo_bare() -> AbstractContextManager[Desk]:
    """The desk without a product, with tenuo's client."""
    return http_desk.desk(bare().streamable_http_app(), plain, plain)


def with_arx() -> AbstractContextManager[Desk]:
    """The desk with ARx."""
    desk, worker = arx_clients(f"http://127.0.0.1:{stage.SERVICE_PORT}/mcp")
    opens = (lambda _: calling(desk), lambda _: calling(worker))
    return http_desk.desk(arx_server().streamable_http_app(), *opens, port=stage.SERVICE_PORT)


def with_tenuo() -> AbstractContextManager[Desk]:
    """The desk with tenuo."""
    return http_desk.with_tenuo(lambda root: tenuo_server(root).streamable_http_app())


if __name__ == "__main__":
    examples = ((arx_server, arx_clients), (tenuo_server, tenuo_sessions, tenuo_client))
    stage.main(Framework(without, with_arx, with_tenuo, examples, ("mcp",), tenuo_bare))
