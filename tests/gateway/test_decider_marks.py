# SPDX-License-Identifier: Apache-2.0
"""Marks at the doors of a gateway and at each decider: what a sub-agent has read binds the agent above it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.gateway.base.settings import ActionTerms, DeciderTerms
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import ExtAuthz
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_caps.gateway.deciders.forward_auth import ForwardAuth
from arx_verifier import Rule
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.gateway import protos, test_authzen, test_deciders, test_ext_authz
from tests.gateway.served_door import call_tool
from tests.gateway.test_effects import JSON, gateway, message
from tests.gateway.test_ext_mcp import PACKAGE

pytestmark = pytest.mark.spec("21.4")

ROUTES = {"GET /orders": "orders.get", "POST /refund": "orders.refund"}
ROWS = {
    "marks": [["call", "seen", "session", ["orders.get"]]],
    "after": [[["seen"], ["orders.refund"]]],
}
Ask = Callable[[UnsafeCaller, str], Any]


def judged(realm: UnsafeTestRealm, ask: Ask) -> tuple[Any, list[str]]:
    """The answer to a refund after a sub-agent has read, and the codes of the records."""
    caller = realm.caller(Rule(tool="*"), marks=ROWS)
    ask(caller, "refund")
    ask(caller.delegate("test/helper"), "get")
    answer = ask(caller, "refund")
    return answer, [decision.code for decision in realm.decisions.decisions]


def test_forward_authentication() -> None:
    """A program reads the problem."""
    asked = test_deciders.Asked()
    asked.door = ForwardAuth(
        Decider(asked.realm.verifier, ROUTES, ("127.0.0.1/32",)),
        DeciderTerms(
            kind="forward-auth", listen="", audience="orders", hosts=("127.0.0.1/32",), body_header="X-Arx-Body"
        ),
    )

    def ask(caller: UnsafeCaller, tool: str) -> httpx.Response:
        method, path = ("GET", "/orders") if tool == "get" else ("POST", "/refund")
        headers = test_deciders.described(caller(httpx.Request(method, f"http://shop{path}")))
        return asked.ask([*headers, ("X-Arx-Body", "none")])

    answer, codes = judged(asked.realm, ask)
    assert codes == ["ok", "ok", "after_mark"]
    assert (answer.status_code, answer.json()["code"]) == (403, "after_mark")
    assert answer.json()["failures"][0]["came"].startswith("seen by orders.get at orders, ")


def test_external_authorization() -> None:
    """As Envoy asks it."""
    realm = UnsafeTestRealm("orders")
    terms = DeciderTerms(kind="ext-authz", listen="127.0.0.1:1", audience="orders", bodies=True)
    decider = ExtAuthz(Decider(realm.verifier, ROUTES, ()), terms)

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        method, path = ("GET", "/orders") if tool == "get" else ("POST", "/refund")
        return asyncio.run(decider.answer("Check", test_ext_authz.described(caller, method, path), "127.0.0.1"))

    answer, codes = judged(realm, ask)
    assert codes == ["ok", "ok", "after_mark"]
    assert test_ext_authz.code_of(answer) == "after_mark"


def test_messages_of_mcp() -> None:
    """As agentgateway asks about them."""
    realm = UnsafeTestRealm("orders")
    decider = ExtMcp(realm.verifier, DeciderTerms(kind="ext-mcp", listen="", audience="orders", backend="shop"))

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        params = {"name": tool, "arguments": {}, "_meta": {META_KEY: caller.token(f"orders.{tool}")}}
        asked = protos.message(f"{PACKAGE}.McpRequest")(
            service_names=["shop"], method="tools/call", mcp_request=json.dumps(params).encode()
        )
        return asyncio.run(decider.answer("CheckRequest", asked, "127.0.0.1"))

    answer, codes = judged(realm, ask)
    assert codes == ["ok", "ok", "after_mark"]
    assert json.loads(answer.error.mcp_error)["code"] == "after_mark"


def test_a_policy_decision_point_of_authzen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is in the context of a denial."""
    actions = {f"{tool} order": ActionTerms(tool=f"orders.{tool}") for tool in ("get", "refund")}
    monkeypatch.setattr(test_authzen, "ACTIONS", actions)
    asked = test_authzen.Asked()

    def ask(caller: UnsafeCaller, tool: str) -> Any:
        question = test_authzen.message("x", "order", "o-1") | {"action": {"name": tool}}
        return asked.answer(question | {"context": {"credential": caller.token(f"orders.{tool}")}})

    answer, codes = judged(asked.realm, ask)
    assert codes == ["ok", "ok", "after_mark"]
    assert (answer["decision"], answer["context"]["reason"]) == (False, "after_mark")


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_doors_of_a_gateway(kind: str, tmp_path: Path) -> None:
    """A program reads the problem of an HTTP upstream, and a model the text of an MCP upstream."""
    realm, ran = UnsafeTestRealm("orders"), list[int]()
    rows = {"marks": [["call", "seen", "session", ["orders.refund"]]], "after": ROWS["after"]}
    caller = realm.caller(Rule(tool="*"), marks=rows)
    with (
        gateway(kind, realm, tmp_path, 200, JSON, message(), lambda: ran.append(1)) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        answers = [
            client.post(f"{url}/refund", auth=each) if kind == "http" else call_tool(url, each, "refund")
            for each in (caller.delegate("test/helper"), caller)
        ]
    assert ran == [1]
    if kind == "http":
        assert (answers[1].status_code, answers[1].json()["code"]) == (403, "after_mark")
        return
    result = answers[1].json()["result"]
    assert result["isError"]
    assert result["_meta"]["dev.arx/refusal"]["code"] == "after_mark"
    assert "the session must not have seen, got seen by orders.refund at orders, " in result["content"][0]["text"]
