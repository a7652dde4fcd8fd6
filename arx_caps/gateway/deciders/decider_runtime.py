# SPDX-License-Identifier: Apache-2.0
"""One running decider: the verifier of its audience, and what speaks to the proxy."""

from typing import Any

from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource
from arx_caps.gateway.base.asgi import Receive, Scope, Send
from arx_caps.gateway.base.settings import DeciderTerms, GatewaySettings
from arx_caps.gateway.deciders.authzen import AuthZen
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import MAX_BODY, ExtAuthz, ExtAuthzHttp
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_caps.gateway.deciders.forward_auth import ForwardAuth
from arx_caps.gateway.deciders.grpc_server import Answer, GrpcServer
from arx_caps.gateway.http.openapi import read_routes
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier.metrics.counted_decisions import Counts
from arx_verifier.verification.nonces import NonceStore


class UnspentCalls:
    """A memory of used calls that remembers none: the verifier behind the proxy has one, and spends them."""

    waits = False

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:  # noqa: ARG002 - see NonceStore
        """Accept a key, and do not remember it."""
        return True

    def not_before(self, key: bytes | str) -> int:  # noqa: ARG002 - see NonceStore
        """Return 0: nothing is forgotten."""
        return 0

    def close(self) -> None:
        """Do nothing."""


class RunningDecider(RunningVerifier):
    """A decider between ``start`` and ``close``.

    Args:
        name: Its name.
        settings: The gateway's file.
        nonces: The memory of used calls that verifiers of its service file share, unless the file names another one.
        counts: As of ``CountedDecisions``.

    Attributes:
        port: The port at which the proxy asks.
        is_grpc: Whether it asks over gRPC.
        routes: The tool of each route.
        door: What answers the proxy, over HTTP or gRPC.
        resource: What takes access tokens; None if it takes none.

    Raises:
        SettingsError: A file of it cannot be read, or says something that is not understood.
    """

    def __init__(self, name: str, settings: GatewaySettings, nonces: NonceStore, counts: Counts) -> None:
        terms, path = settings.deciders[name], settings.service_file(name)
        spent = nonces if terms.spends else UnspentCalls()
        super().__init__(f"decider.{name}", name, terms, path, spent, counts, draws=terms.spends)
        self.port, self.is_grpc = terms.address(settings.gateway)[1], terms.is_grpc
        openapi = terms.openapi and read_routes(settings.folder / terms.openapi, terms.audience)
        self.routes = openapi or terms.routes
        self.resource: OAuthResource | None = None
        if terms.resource is not None and self.handles is not None:
            self.resource = OAuthResource(self.verifier, self.handles, path, terms.resource, 2 * MAX_BODY)
        self.door = self._door(terms, settings)
        if terms.kind == "authzen":
            self.routes = {**self.routes, **{name: action.tool for name, action in terms.actions.items()}}

    def _door(
        self, terms: DeciderTerms, settings: GatewaySettings
    ) -> AuthZen | ExtAuthz | ExtAuthzHttp | ExtMcp | ForwardAuth:
        if terms.kind == "ext-mcp":
            return ExtMcp(self.verifier, terms, self.resource)
        if terms.kind == "authzen":
            place = f"decider.{self.name}"
            return AuthZen(self.verifier, terms, self.routes, settings.folder, place, self.resource)
        # Over gRPC the proxy says who its client is; over HTTP it adds the address to a header.
        proxies = () if terms.is_grpc else terms.hosts
        trusted = (*proxies, *settings.gateway.trusted_proxies)
        decider = Decider(self.verifier, self.routes, trusted, self.resource)
        if terms.kind == "ext-authz":
            return ExtAuthz(decider, terms)
        return ExtAuthzHttp(decider, terms) if terms.kind == "ext-authz-http" else ForwardAuth(decider, terms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question over HTTP.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        assert not isinstance(self.door, ExtAuthz | ExtMcp)
        await self.door(scope, receive, send)

    async def answer(self, call: str, request: Any, peer: str | None) -> Any:
        """Answer one question over gRPC.

        Args:
            call: The name of the call.
            request: Its message, of a class that protobuf makes while it runs.
            peer: The address of who asks, or None.
        """
        assert isinstance(self.door, ExtAuthz | ExtMcp)
        return await self.door.answer(call, request, peer)

    async def close(self) -> None:
        """End it; running questions must be over."""
        if self.resource is not None:
            await self.resource.close()
        await super().close()


def grpc_server(kind: str, answer: Answer) -> GrpcServer:
    """Return a server of a decider that is asked over gRPC.

    Args:
        kind: Its kind.
        answer: Answers.
    """
    door: type[ExtMcp | ExtAuthz] = ExtMcp if kind == "ext-mcp" else ExtAuthz
    return GrpcServer(door.service, door.calls, answer)
