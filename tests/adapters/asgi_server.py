# SPDX-License-Identifier: Apache-2.0
"""Serve an ASGI application over real HTTP in a thread, for tests of adapters; it needs no mint."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()


@contextmanager
def serving(app: Any, port: int = 0, **more: Any) -> Iterator[int]:
    """Serve an application with its lifespan, and give its port; ``more`` are settings of uvicorn."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        settings = {
            "lifespan": "on",
            "log_config": None,
            "proxy_headers": False,
            "timeout_graceful_shutdown": 1,
            **more,
        }
        config = uvicorn.Config(app, **settings)
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert server.begun.wait(60), "the application did not start"
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the server did not end"


async def complete_lifespan(scope: Any, receive: Any, send: Any) -> bool:
    """Complete the lifespan of an application that starts nothing; return whether the scope is a lifespan."""
    if scope["type"] != "lifespan":
        return False
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
    return True


async def whole_body(receive: Any) -> bytes:
    """Return the body of a request, or the part that came before its client went."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body
