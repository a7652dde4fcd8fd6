# SPDX-License-Identifier: Apache-2.0
"""A real realm for the tests of MCP clients: a mint, a store, the orders service of a page, and agents."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from mcp import StdioServerParameters

from arx_caps.agent import Agent, StartedTask
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import open_verifier
from tests.adapters.asgi_server import serving
from tests.agent.live import LiveMint, live_mint
from tests.house.pages import ROOT, blocks
from tests.servers import LONG_LEASE_MS, begun_store, free_ports

SCRIPT = "orders_mcp.py"
TOKEN = re.compile(r"arx(?:1|b1)_[A-Za-z0-9_-]{16}")
MORE = """
[task.waiting]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [
  { tool = "orders.whoami", args = {} },
  { tool = "orders.flaky", args = {} },
  { tool = "orders.handed", args = {} },
  { tool = "orders.wait.*", any = true },
  { tool = "orders.get", args = { order_id = "o-1" } },
  { tool = "orders.prompts.get", any = true },
]

[task.approved]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [{ tool = "orders.refund", args = { order_id = "o-1", amount = { max = 100 } } }]
approvals = [{ tools = ["orders.refund"] }]
depth = 1

[task.both]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders", "payments"]
allow = [{ tool = "orders.get", any = true }, { tool = "payments.get", any = true }]
"""


class Shop(NamedTuple):
    """A realm with an orders service, whose server listens at ``port``; ``script`` is the page's server."""

    mint: LiveMint
    folder: Path
    port: int
    script: str
    agents: dict[str, Agent]

    @property
    def url(self) -> str:
        """Where the MCP server is."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def service_file(self) -> Path:
        """The file of the orders service."""
        return self.folder / "orders.json"

    def kill(self, target: str) -> None:
        """Kill as an operator."""
        self.mint.operator("POST", "/v1/kills", {"targets": [target], "reason": "a test"})

    def answer(self, approval: str, outcome: str = "approve") -> None:
        """Answer a request for an approval as an operator."""
        self.mint.operator("POST", "/v1/approvals", {"approval": approval, "outcome": outcome, "why": None})

    @contextlib.contextmanager
    def task(self, template: str, agent: str = "acme/support", **params: Any) -> Iterator[StartedTask]:
        """A task of an agent that is enrolled for it."""
        if agent not in self.agents:
            self.agents[agent] = self.mint.agent(agent)
        with self.agents[agent].open_session() as session:
            yield session.start_task(template, params)

    @contextlib.contextmanager
    def served(self, way: str, make_app: str = "streamable_http_app") -> Iterator[Any]:
        """Yield the address of the page's server: a command for a client over stdio, or the URL of one that runs.

        Args:
            way: ``stdio`` or ``http``.
            make_app: The server's method that returns its ASGI application.
        """
        if way == "stdio":
            script, environment = [SCRIPT, "stdio"], {"PYTHONPATH": str(ROOT), **os.environ}
            yield StdioServerParameters(command=sys.executable, args=script, cwd=self.folder, env=environment)
            return
        with contextlib.chdir(self.folder):
            names = _names(self.script)
        with contextlib.ExitStack() as stack:
            if "verifier" in names:  # of a server that has no lifespan to close it
                stack.enter_context(contextlib.closing(names["verifier"]))
            stack.enter_context(serving(getattr(names["server"], make_app)(), self.port))
            yield self.url

    @contextlib.contextmanager
    def serving(self, way: str, server: Any, ran: list[str], *inner: Any) -> Iterator[Any]:
        """Do the same for the tests' own server.

        Args:
            way: As for ``served``.
            server: Its module.
            ran: Gets the name of each tool that runs over HTTP, and ``cancelled`` when one is.
            inner: Middleware that is called over HTTP behind the adapter.
        """
        if way == "stdio":
            command, environment = ["-m", server.__name__, str(self.service_file)], {"PYTHONPATH": str(ROOT)}
            yield StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=environment)
            return
        with (
            contextlib.closing(open_verifier(self.service_file)) as verifier,
            serving(server.make_app(verifier, ran, *inner), self.port),
        ):
            yield self.url


def page_block(page: str, containing: str) -> str:
    """Return the one block of a page of docs/adapters that contains a text."""
    text = (ROOT / "docs" / "adapters" / page).read_text("utf-8")
    (found,) = [block.text for block in blocks(text) if containing in block.text]
    return found


def page_names(page: str, containing: str) -> dict[str, Any]:
    """Return the names that such a block defines."""
    return _names(page_block(page, containing))


def _names(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(source, "page", "exec"), names)
    return names


@contextlib.contextmanager
def open_shop(folder: Path, page: str, server: str) -> Iterator[Shop]:
    """Run a mint with the policy of a page, and enrol the orders service.

    Args:
        folder: An empty folder.
        page: The page's file in docs/adapters.
        server: A text of the block with the server alone.
    """
    mint_port, port, other = free_ports(3)
    sites = f'[audience.orders]\norigins = ["http://127.0.0.1:{port}"]\n[audience.payments]\norigins = ["http://127.0.0.1:{other}"]\n'
    sessions = '[session.all]\nagents = ["acme/**"]\nttl = "1h"\n'
    policy = f"{sites}\n{sessions}\n{page_block(page, '[task.')}\n{MORE}"
    (folder / "store").mkdir()
    with (
        EmbeddedValkey(folder / "store") as store,
        begun_store(store.url, "shop", lease_ms=LONG_LEASE_MS),
        live_mint(folder, store_url=store.url, name="shop", port=mint_port, policy=policy) as mint,
    ):
        shop = Shop(mint, folder, port, page_block(page, server), {})
        (folder / SCRIPT).write_text(shop.script, "utf-8")
        shop.service_file.touch(0o600)
        service = mint.service_file("orders")
        service["journal"] = str(folder / "journal")
        shop.service_file.write_bytes(msgspec.json.encode(service))
        try:
            yield shop
        finally:
            for agent in shop.agents.values():
                agent.close()
