# SPDX-License-Identifier: Apache-2.0
"""uvicorn's server, which announces itself, to systemd too, and answers every request before it stops."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from arx_caps.http.connections import BACKLOG, BoundedProtocol, accept_last
from arx_caps.http.process import READY, STOPPING, notify_manager


def config_of(app: Any, **settings: Any) -> uvicorn.Config:
    """Return the configuration of a server of an ASGI application, with the settings that all servers share.

    Args:
        app: The application.
        settings: Further settings of uvicorn.
    """
    return uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        log_level="error",  # an attacker could fill the log with malformed requests
        access_log=False,  # a server has its own, which names no subject
        server_header=False,
        proxy_headers=False,
        **settings,
    )


class BoundedServer(uvicorn.Server):
    """A server whose connections are bounded.

    Args:
        config: Its ``http`` is ``protocol``.
        protocol: A class that ``bounded`` returned.
        on_started: Called once it serves.
        on_stopping: Called when it begins to stop, to end answers that would never end by themselves.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        protocol: type[BoundedProtocol],
        on_started: Callable[[], None],
        on_stopping: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._protocol, self._on_started, self._on_stopping = protocol, on_started, on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio uses one number for the backlog and for accepts in a turn
        if self.started:
            self._on_started()
            notify_manager(READY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests that are arriving, and stop."""
        notify_manager(STOPPING)
        self._on_stopping()
        await accept_last(sockets or ())
        for server in self.servers:
            server.close()
        await self._protocol.take_last()
        await super().shutdown(sockets)


def is_no_cut(record: logging.LogRecord) -> bool:
    """Return whether a line of uvicorn's log is about something else than an answer that was cut.

    Args:
        record: The line.
    """
    # A stream is cut by an answer without its end, which uvicorn takes for a fault; a record has the cause.
    return "without completing response" not in record.getMessage()
