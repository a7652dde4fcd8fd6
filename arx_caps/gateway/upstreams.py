# SPDX-License-Identifier: Apache-2.0
"""One running upstream: its door, its verifier, and what keeps the verifier's keys fresh and ships its records."""

import asyncio
import logging
from typing import Any

from arx_caps.gateway.forwarder import Forwarder
from arx_caps.gateway.http_door import HttpDoor
from arx_caps.gateway.mcp_door import McpDoor
from arx_caps.gateway.mcp_stdio import StdioUpstream
from arx_caps.gateway.oauth_resource import OAuthResource
from arx_caps.gateway.openapi import read_routes
from arx_caps.gateway.settings import GatewaySettings
from arx_caps.service import KeyRefresher, open_shipper
from arx_verifier.errors import SettingsError
from arx_verifier.service import open_verifier, read_service_file
from arx_verifier.verification import NonceStore

_log = logging.getLogger(__name__)


class RunningUpstream:
    """An upstream between ``start`` and ``close``.

    Args:
        name: Its name.
        settings: The gateway's file.
        nonces: The memory of used calls that verifiers of its service file share, unless the file names another one.

    Attributes:
        name: Its name.
        door: The ASGI application that serves it.
        verifier: Its verifier.
        routes: The tool of each route of a plain HTTP service.
        resource: What takes access tokens; None if it takes none.
        idle: Set while no call runs.

    Raises:
        SettingsError: A file of it cannot be read, or says something that is not understood.
    """

    def __init__(self, name: str, settings: GatewaySettings, nonces: NonceStore | None = None) -> None:
        terms, path = settings.upstreams[name], settings.service_file(name)
        file = read_service_file(path)
        if file.audience != terms.audience:
            raise SettingsError(f"upstream.{name}: {path} is of {file.audience}, and `audience` is {terms.audience}")
        self.name = name
        self.verifier = open_verifier(path, nonces=nonces if file.nonces is None else None)
        proxies = settings.gateway.trusted_proxies
        self.routes: dict[str, str] = {}
        self.upstream: Forwarder | StdioUpstream
        self.door: McpDoor | HttpDoor | OAuthResource
        self.resource: OAuthResource | None = None
        if terms.is_http:
            openapi = terms.openapi and read_routes(settings.folder / terms.openapi, terms.audience)
            self.routes = openapi or terms.routes
            self.upstream = Forwarder(name, terms, settings.folder)
            self.door = HttpDoor(self.verifier, terms, self.upstream, self.routes, proxies)
        else:
            kind: Any = StdioUpstream if terms.command else Forwarder
            self.upstream = kind(name, terms, settings.folder)
            self.door = McpDoor(self.verifier, terms, self.upstream, proxies)
        if terms.resource is not None:
            resource = OAuthResource(self.door, self.verifier, path, terms.resource, terms.max_body)
            self.door = self.resource = resource
        # A service file with keys alone, as `arx service enrol` writes it, is kept fresh by another process.
        self._beside: list[Any] = []
        self._calls, self.idle = 0, asyncio.Event()
        self.idle.set()
        if file.key_file is not None:
            self._beside = [KeyRefresher(path, self.verifier.keys), open_shipper(path)]

    async def start(self) -> None:
        """Follow the revocation epoch and open the upstream's connections.

        Raises:
            ArxError: The journal or the store cannot be opened.
        """
        await asyncio.to_thread(self.verifier.start)
        self.upstream.open()

    def start_beside(self) -> None:
        """Start to refresh keys and to ship records.  One journal has one shipper: the one before must be closed."""
        for each in self._beside:
            each.start()

    async def close_beside(self) -> None:
        """End both; what is recorded from now on waits for the next shipper of the journal."""
        while self._beside:
            await asyncio.to_thread(self._beside.pop().close)

    def count(self, more: int) -> None:
        """Count a call that begins, or one that is over.

        Args:
            more: 1 or -1.
        """
        self._calls += more
        (self.idle.clear if self._calls else self.idle.set)()

    async def close(self) -> None:
        """End it; running calls must be over."""
        await self.door.close()
        await self.upstream.close()
        await asyncio.to_thread(self.verifier.close)
        await self.close_beside()
        _log.info("upstream %s is closed", self.name)
