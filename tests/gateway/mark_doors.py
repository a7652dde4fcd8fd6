# SPDX-License-Identifier: Apache-2.0
"""The deciders and doors of a gateway, each asked about a call that reads and one that refunds."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from arx_caps.gateway.base.settings import ActionTerms, DeciderTerms
from arx_caps.gateway.deciders.authzen import AuthZen
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import ExtAuthz
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_caps.gateway.deciders.forward_auth import ForwardAuth
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.gateway import protos, test_authzen, test_deciders, test_ext_authz
from tests.gateway.served_door import call_tool
from tests.gateway.test_effects import JSON, gateway, message
from tests.gateway.test_ext_mcp import PACKAGE

ROUTES: Final = {"GET /orders": "orders.get", "POST /refund": "orders.refund"}
Ask = Callable[[UnsafeCaller, str], Any]  # `get` or `refund`


def forward_auth(realm: UnsafeTestRealm) -> Ask:
    """As nginx asks."""
    asked = test_deciders.Asked()
    asked.door = ForwardAuth(
        Decider(realm.verifier, ROUTES, ("127.0.0.1/32",)),
        DeciderTerms(
            kind="forward-auth", listen="", audience="orders", hosts=("127.0.0.1/32",), body_header="X-Arx-Body"
        ),
    )

    def ask(caller: UnsafeCaller, tool: str) -> httpx.Response:
        method, path = ("GET", "/orders") if tool == "get" else ("POST", "/refund")
        headers = test_deciders.described(caller(httpx.Request(method, f"http://shop{path}")))
        return asked.ask([*headers, ("X-Arx-Body", "none")])

    return ask


def ext_authz(realm: UnsafeTestRealm) -> Ask:
    """As Envoy asks."""
    terms = DeciderTerms(kind="ext-authz", listen="127.0.0.1:1", audience="orders", bodies=True)
    decider = ExtAuthz(Decider(realm.verifier, ROUTES, ()), terms)

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        method, path = ("GET", "/orders") if tool == "get" else ("POST", "/refund")
        return asyncio.run(decider.answer("Check", test_ext_authz.described(caller, method, path), "127.0.0.1"))

    return ask


def ext_mcp(realm: UnsafeTestRealm) -> Ask:
    """As agentgateway asks."""
    decider = ExtMcp(realm.verifier, DeciderTerms(kind="ext-mcp", listen="", audience="orders", backend="shop"))

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        params = {"name": tool, "arguments": {}, "_meta": {META_KEY: caller.token(f"orders.{tool}")}}
        asked = protos.message(f"{PACKAGE}.McpRequest")(
            service_names=["shop"], method="tools/call", mcp_request=json.dumps(params).encode()
        )
        return asyncio.run(decider.answer("CheckRequest", asked, "127.0.0.1"))

    return ask


def authzen(realm: UnsafeTestRealm) -> Ask:
    """As a PEP of AuthZEN asks."""
    asked = test_authzen.Asked()
    actions = {f"{tool} order": ActionTerms(tool=f"orders.{tool}") for tool in ("get", "refund")}
    terms = DeciderTerms(
        kind="authzen",
        listen="",
        audience="orders",
        url="http://127.0.0.1:9",
        peps={"pep": "env:PEP_SECRET"},
        actions=actions,
    )
    asked.door = AuthZen(realm.verifier, terms, {}, Path(), "decider.pdp")

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        question = test_authzen.message("x", "order", "o-1") | {"action": {"name": tool}}
        return asked.answer(question | {"context": {"credential": caller.token(f"orders.{tool}")}})

    return ask


@contextlib.contextmanager
def door(kind: str, realm: UnsafeTestRealm, folder: Path, work: Callable[[], object] = lambda: None) -> Iterator[Ask]:
    """A gateway before an upstream of a kind, ``http`` or ``mcp``; the one of HTTP has no call that reads."""
    with (
        gateway(kind, realm, folder, 200, JSON, message(), work) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):

        def ask(caller: UnsafeCaller, tool: str) -> httpx.Response:
            return client.post(f"{url}/{tool}", auth=caller) if kind == "http" else call_tool(url, caller, tool)

        yield ask
