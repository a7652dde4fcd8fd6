# SPDX-License-Identifier: Apache-2.0
"""One running upstream: its door, and the verifier of its audience."""

from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource
from arx_caps.gateway.base.settings import GatewaySettings
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.http.openapi import read_routes
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier.verification import NonceStore


class RunningUpstream(RunningVerifier):
    """An upstream between ``start`` and ``close``.

    Args:
        name: Its name.
        settings: The gateway's file.
        nonces: The memory of used calls that verifiers of its service file share, unless the file names another one.

    Attributes:
        door: The ASGI application that serves it.
        routes: The tool of each route of a plain HTTP service.
        resource: What takes access tokens; None if it takes none.

    Raises:
        SettingsError: A file of it cannot be read, or says something that is not understood.
    """

    def __init__(self, name: str, settings: GatewaySettings, nonces: NonceStore | None = None) -> None:
        terms, path = settings.upstreams[name], settings.service_file(name)
        super().__init__(f"upstream.{name}", name, terms, path, nonces)
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
            if terms.command:
                self.upstream = StdioUpstream(name, terms, settings.folder, settings.protected())
            else:
                self.upstream = Forwarder(name, terms, settings.folder)
            self.door = McpDoor(self.verifier, terms, self.upstream, proxies)
        if terms.resource is not None:
            resource = OAuthResource(
                self.door,
                self.verifier,
                path,
                terms.resource,
                terms.max_body,
                max_answer=terms.max_answer,
                dpop=terms.dpop,
            )
            self.door = self.resource = resource

    async def start(self) -> None:
        """Follow the revocation epoch and open the upstream's connections.

        Raises:
            ArxError: The journal or the store cannot be opened.
        """
        await super().start()
        self.upstream.open()

    async def close(self) -> None:
        """End it; running calls must be over."""
        await self.door.close()
        await self.upstream.close()
        await super().close()
