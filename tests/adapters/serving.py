# SPDX-License-Identifier: Apache-2.0
"""The application of a docs page behind a real server, for the tests of adapters."""

import contextlib
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from tests.adapters.asgi_server import serving
from tests.house.pages import ROOT, blocks


def example(page: str, folder: Path) -> dict[str, Any]:
    """Return the names that ``orders.py`` of a docs page defines.

    Args:
        page: The page, ``fastapi`` for ``docs/adapters/fastapi.md``.
        folder: Where to write the file.
    """
    text = (ROOT / "docs" / "adapters" / f"{page}.md").read_text("utf-8")
    (block,) = [block for block in blocks(text) if block.before == "`orders.py`:"]
    path = folder / "orders.py"
    path.write_text(block.text, "utf-8")
    return runpy.run_path(str(path))


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI application, and yield its address."""
    with serving(app) as port:
        yield f"http://127.0.0.1:{port}"


def connect(address: str, target: str, agent: Any) -> ClientConnection:
    """Open a WebSocket, its handshake signed by an agent.

    Args:
        address: The server's address.
        target: Path and query.
        agent: The agent; None for a handshake without a token.
    """
    headers = (
        {}
        if agent is None
        else {"authorization": agent(httpx.Request("GET", address + target)).headers["authorization"]}
    )
    return open_socket(
        address.replace("http", "ws", 1) + target, additional_headers=headers, proxy=None, open_timeout=60
    )
