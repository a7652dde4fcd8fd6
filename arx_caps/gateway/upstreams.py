# SPDX-License-Identifier: Apache-2.0
"""One running upstream: its door, and the verifier of its audience."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource, before
from arx_caps.gateway.base.asgi import Receive, Scope, Send
from arx_caps.gateway.base.settings import GatewaySettings
from arx_caps.gateway.catalogue.terms import RouteTerms, read_catalogue, route_terms
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.http.openapi import read_routes
from arx_caps.gateway.mcp.accepted_tools import AcceptedTools
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_caps.gateway.upstream.person_credential import PersonCredential
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier.metrics.counted_decisions import Counts
from arx_verifier.verification.nonces import NonceStore


class RunningUpstream(RunningVerifier):
    """An upstream between ``start`` and ``close``.

    Args:
        name: Its name.
        settings: The gateway's file.
        nonces: The memory of used calls that verifiers of its service file share, unless the file names another one.
        counts: As of ``CountedDecisions``.

    Attributes:
        door: Decides on its requests and forwards them.
        routes: The tool of each route of a plain HTTP service, or what a request of it means.
        hosts: The hosts whose requests come here.
        resource: What takes access tokens; None if it takes none.

    Raises:
        SettingsError: A file of it cannot be read, or says something that is not understood.
    """

    def __init__(self, name: str, settings: GatewaySettings, nonces: NonceStore, counts: Counts) -> None:
        terms, path = settings.upstreams[name], settings.service_file(name)
        catalogue = terms.catalogue and read_catalogue(terms.catalogue, settings.folder, terms.audience)
        recorded = tuple(each.tool for each in catalogue.routes.values() if each.probe) if catalogue else ()
        super().__init__(f"upstream.{name}", name, terms, path, nonces, counts, recorded=recorded)
        proxies = settings.gateway.trusted_proxies
        self.routes: Mapping[str, str] | Mapping[str, RouteTerms] = {}
        self.hosts, self._max_body = terms.hosts or (), terms.max_body
        self.upstream: Forwarder | StdioUpstream
        self.door: McpDoor | HttpDoor
        self.resource: OAuthResource | None = None
        person: PersonCredential | None = None
        if terms.has_people and terms.credential is not None:
            person = PersonCredential(name, terms.credential, path, self.verifier.epochs)
        if terms.is_http:
            if catalogue:
                self.routes = catalogue.routes
                if terms.hosts is None:
                    self.hosts = (urlsplit(terms.url or "").hostname or "",)
            else:
                openapi = terms.openapi and read_routes(settings.folder / terms.openapi, terms.audience)
                self.routes = openapi or (route_terms(terms.routes, terms.bodies) if terms.bodies else terms.routes)
            self.upstream = Forwarder(name, terms, settings.folder, person)
            self.door = HttpDoor(self.verifier, terms, self.upstream, self.routes, proxies)
        else:
            if terms.command:
                self.upstream = StdioUpstream(name, terms, settings.folder, settings.protected())
            else:
                self.upstream = Forwarder(name, terms, settings.folder, person)
            tools = AcceptedTools(terms.audience, settings.tools_file(name))
            asks = None if person is None else person.is_connected
            self.door = McpDoor(self.verifier, terms, self.upstream, proxies, tools, asks)
        if terms.resource is not None and self.handles is not None:
            self.resource = OAuthResource(
                self.verifier,
                self.handles,
                path,
                terms.resource,
                terms.max_body,
                mcp=self.door if isinstance(self.door, McpDoor) else None,
                max_answer=terms.max_answer,
                dpop=terms.dpop,
            )

    @property
    def about(self) -> dict[str, Any]:
        """What a front has to know, which maps requests to a host as the door does."""
        plain = {route: tool for route, tool in self.routes.items() if isinstance(tool, str)}
        routes = {**self.routes, **route_terms(plain)}
        about = {"upstream": self.name, "audience": self.verifier.audience, "max_body": self._max_body}
        return about | {"routes": msgspec.to_builtins(routes)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        await before(self.resource, self.door)(scope, receive, send)

    async def start(self) -> None:
        """Follow the revocation epoch and open the upstream's connections.

        Raises:
            ArxError: The journal or the store cannot be opened.
        """
        await super().start()
        self.upstream.open()

    async def close(self) -> None:
        """End it; running calls must be over."""
        if self.resource is not None:
            await self.resource.close()
        await self.door.close()
        await self.upstream.close()
        await super().close()
