# SPDX-License-Identifier: Apache-2.0
"""A decider that watches let a client's access token, and the DPoP proof beside it, go on to what is behind the proxy.

It removed ARx tokens alone.  The service behind could use the access token at the proxy, in the client's name.  Now
an access token is removed with its proof, where the decider takes such tokens; a credential of the client's own passes.
"""

import asyncio
from typing import Any, Final

import pytest

from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import ExtAuthz, ExtAuthzHttp
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_verifier import Constraint, Rule
from arx_verifier.clock import now_ms
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.watch import Watch
from tests.gateway import protos

RESOURCE: Final = "https://shop.example/mcp"
ACCESS_TOKEN: Final = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudDphY21lL2EifQ.c2ln"
BOTH: Final = {"authorization", "dpop"}


async def ask_envoy(realm: UnsafeTestRealm, terms: DeciderTerms, headers: dict[str, str]) -> set[str]:
    decider = Decider(realm.verifier.watching(Watch(now_ms() + 3_600_000)), {"GET /orders/{id}": "orders.get"}, ())
    request = protos.message("envoy.service.auth.v3.CheckRequest")()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/orders/o-1"
    http.headers.update(headers)
    answer = await ExtAuthz(decider, terms).answer("Check", request, "127.0.0.1")
    assert answer.status.code == 0, answer
    return set(answer.ok_response.headers_to_remove) & BOTH


async def ask_envoy_over_http(realm: UnsafeTestRealm, terms: DeciderTerms, headers: dict[str, str]) -> set[str]:
    decider = Decider(realm.verifier.watching(Watch(now_ms() + 3_600_000)), {"GET /orders/{id}": "orders.get"}, ())
    scope: dict[str, Any] = {"type": "http", "method": "GET", "raw_path": b"/arx/orders/o-1", "query_string": b""}
    scope |= {"client": ("127.0.0.1", 1), "headers": [(name.encode(), each.encode()) for name, each in headers.items()]}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    await ExtAuthzHttp(decider, terms)(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    return {*dict(sent[0]["headers"])[b"x-envoy-auth-headers-to-remove"].decode().split(", ")} & BOTH


async def ask_agentgateway(realm: UnsafeTestRealm, terms: DeciderTerms, headers: dict[str, str]) -> set[str]:
    package = "agentgateway.dev.ext_mcp"
    described = [{"key": name, "value": each.encode()} for name, each in {":path": "/mcp", **headers}.items()]
    request = protos.message(f"{package}.McpRequest")(
        service_names=["shop"],
        method="tools/call",
        headers=described,
        mcp_request=b'{"name":"get","arguments":{"id":"o-1"}}',
    )
    watching = realm.verifier.watching(Watch(now_ms() + 3_600_000))
    answer = await ExtMcp(watching, terms).answer("CheckRequest", request, "127.0.0.1")
    assert answer.WhichOneof("result") != "error", answer
    return set(answer.header_mutation.remove) & BOTH


KINDS: Final = {"ext-authz": ask_envoy, "ext-authz-http": ask_envoy_over_http, "ext-mcp": ask_agentgateway}


@pytest.mark.spec("12.7")
@pytest.mark.parametrize("kind", KINDS)
def test_an_access_token_goes_no_further(kind: str) -> None:
    """With its proof, in any case of its scheme; a client's own pair stays, and so does a JWT where none are taken."""
    realm = UnsafeTestRealm("orders")
    arx = realm.caller(Rule(tool="orders.get", args={"id": Constraint(glob="x-*")})).token("orders.get", id="o-1")

    def removed(authorization: str, resource: str | None = RESOURCE) -> set[str]:
        named: dict[str, Any] = {"backend": "shop"} if kind == "ext-mcp" else {"path_prefix": "/arx", "bodies": True}
        terms = DeciderTerms(kind=kind, listen="127.0.0.1:1", audience="orders", resource=resource, **named)  # type: ignore[arg-type]
        headers = {"authorization": authorization, "dpop": ACCESS_TOKEN}  # a proof has the same form
        return asyncio.run(KINDS[kind](realm, terms, headers))

    for scheme in ("Bearer", "bearer", "DPoP", "DPoP "):
        assert removed(f"{scheme} {ACCESS_TOKEN}") == BOTH, scheme
    assert removed("Bearer of-the-client") == set()
    assert removed(f"Bearer {ACCESS_TOKEN}", None) == set()
    for resource in (RESOURCE, None):
        assert removed(f"Bearer {arx}", resource) == BOTH
