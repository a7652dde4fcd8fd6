# SPDX-License-Identifier: Apache-2.0
"""One running decider: the verifier of its audience, and what speaks to the proxy."""

from typing import Any, Final

from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource
from arx_caps.gateway.base.settings import GatewaySettings
from arx_caps.gateway.deciders.access_requests import AccessRequests
from arx_caps.gateway.deciders.asserted_calls import AssertedCalls
from arx_caps.gateway.deciders.authzen import AuthZen
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import MAX_BODY, ExtAuthz, ExtAuthzHttp
from arx_caps.gateway.deciders.ext_mcp import ExtMcp, McpQuestions
from arx_caps.gateway.deciders.forward_auth import ForwardAuth
from arx_caps.gateway.deciders.grpc_server import Answer, GrpcServer
from arx_caps.gateway.http.openapi import read_routes
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier.verification import NonceStore

_DOORS: Final = {"ext-authz": ExtAuthz, "ext-authz-http": ExtAuthzHttp, "forward-auth": ForwardAuth}


class UnspentCalls:
    """A memory of used calls that remembers none: the verifier behind the proxy has one, and spends them."""

    waits = False
    not_before_ms = 0

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:  # noqa: ARG002 - see NonceStore
        """Accept a key, and do not remember it."""
        return True

    def close(self) -> None:
        """Do nothing."""


class RunningDecider(RunningVerifier):
    """A decider between ``start`` and ``close``.

    Args:
        name: Its name.
        settings: The gateway's file.
        nonces: The memory of used calls that verifiers of its service file share, unless the file names another one.

    Attributes:
        port: The port at which the proxy asks.
        is_grpc: Whether it asks over gRPC.
        routes: The tool of each route.
        door: What answers the proxy: an ASGI application, or an ``ExtAuthz``.
        resource: What takes access tokens; None if it takes none.

    Raises:
        SettingsError: A file of it cannot be read, or says something that is not understood.
    """

    def __init__(self, name: str, settings: GatewaySettings, nonces: NonceStore) -> None:
        terms, path = settings.deciders[name], settings.service_file(name)
        spent = nonces if terms.spends else UnspentCalls()
        super().__init__(f"decider.{name}", name, terms, path, spent, draws=terms.spends)
        self.port, self.is_grpc = terms.address(settings.gateway)[1], terms.is_grpc
        openapi = terms.openapi and read_routes(settings.folder / terms.openapi, terms.audience)
        self.routes = openapi or terms.routes
        behind: Any
        asked: Any
        if terms.kind == "ext-mcp":
            behind = McpQuestions(self.verifier)
            self.door: Any = ExtMcp(behind, terms)
            asked = self.door
        elif terms.kind == "authzen":
            self.door = asked = behind = AuthZen(self.verifier, terms, self.routes, settings.folder, f"decider.{name}")
            if terms.asserted:
                self.door.asserted = AssertedCalls(self.verifier, path)
            self.routes = {**self.routes, **{each: action.tool for each, action in terms.actions.items()}}
        else:
            # Over gRPC the proxy says who its client is; over HTTP it adds the address to a header.
            proxies = () if terms.is_grpc else terms.hosts
            asked = Decider(self.verifier, self.routes, (*proxies, *settings.gateway.trusted_proxies))
            self.door, behind = _DOORS[terms.kind](asked, terms), asked.door
        self.resource: OAuthResource | None = None
        if terms.resource is not None:
            asked.door = self.resource = OAuthResource(behind, self.verifier, path, terms.resource, 2 * MAX_BODY)
            if isinstance(asked, AuthZen):
                asked.requests = AccessRequests(path, asked.requests_url)

    async def close(self) -> None:
        """End it; running questions must be over."""
        await (self.resource or self.door).close()  # the resource closes what is behind it
        await super().close()


def grpc_server(kind: str, answer: Answer) -> GrpcServer:
    """Return a server of a decider that is asked over gRPC.

    Args:
        kind: Its kind.
        answer: Answers.
    """
    door: Any = ExtMcp if kind == "ext-mcp" else ExtAuthz
    return GrpcServer(door.service, door.calls, answer)
