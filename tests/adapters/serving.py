# SPDX-License-Identifier: Apache-2.0
"""The application of a docs page behind a real server, for the tests of adapters."""

import contextlib
import re
import runpy
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

ROOT = Path(__file__).resolve().parents[2]


def example(page: str, folder: Path) -> dict[str, Any]:
    """Return the names that ``orders.py`` of a docs page defines.

    Args:
        page: The page, ``fastapi`` for ``docs/adapters/fastapi.md``.
        folder: Where to write the file.
    """
    text = (ROOT / "docs" / "adapters" / f"{page}.md").read_text("utf-8")
    found = re.search(r"`orders\.py`:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, page
    path = folder / "orders.py"
    path.write_text(found[1], "utf-8")
    return runpy.run_path(str(path))


class _Server(uvicorn.Server):
    ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application with uvicorn, and yield its address.

    Args:
        app: The ASGI application.
        options: Further settings of uvicorn.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_level="warning", lifespan="on", proxy_headers=False, **options))
    server.ready = threading.Event()
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    try:
        assert server.ready.wait(60), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


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
    return open_socket(address.replace("http", "ws", 1) + target, additional_headers=headers, proxy=None)
