# SPDX-License-Identifier: Apache-2.0
"""Marks at the doors of a gateway and at each decider: what a sub-agent has read binds the agent above it."""

import json
from pathlib import Path
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway import test_ext_authz
from tests.gateway.mark_doors import Ask, authzen, door, ext_authz, ext_mcp, forward_auth

pytestmark = pytest.mark.spec("21.4")

ROWS = {
    "marks": [["call", "seen", "session", ["orders.get"]]],
    "after": [[["seen"], ["orders.refund"]]],
}


def judged(realm: UnsafeTestRealm, ask: Ask) -> tuple[Any, list[str]]:
    """The answer to a refund after a sub-agent has read, and the codes of the records."""
    caller = realm.caller(Rule(tool="*"), marks=ROWS)
    ask(caller, "refund")
    ask(caller.delegate("test/helper"), "get")
    answer = ask(caller, "refund")
    return answer, [decision.code for decision in realm.decisions.decisions]


def test_forward_authentication() -> None:
    """A program reads the problem."""
    realm = UnsafeTestRealm("orders")
    answer, codes = judged(realm, forward_auth(realm))
    assert codes == ["ok", "ok", "after_mark"]
    assert (answer.status_code, answer.json()["code"]) == (403, "after_mark")
    assert answer.json()["failures"][0]["came"].startswith("seen by orders.get at orders, ")


def test_external_authorization() -> None:
    """As Envoy asks it."""
    realm = UnsafeTestRealm("orders")
    answer, codes = judged(realm, ext_authz(realm))
    assert codes == ["ok", "ok", "after_mark"]
    assert test_ext_authz.code_of(answer) == "after_mark"


def test_messages_of_mcp() -> None:
    """As agentgateway asks about them."""
    realm = UnsafeTestRealm("orders")
    answer, codes = judged(realm, ext_mcp(realm))
    assert codes == ["ok", "ok", "after_mark"]
    assert json.loads(answer.error.mcp_error)["code"] == "after_mark"


def test_a_policy_decision_point_of_authzen() -> None:
    """The reason is in the context of a denial."""
    realm = UnsafeTestRealm("orders")
    answer, codes = judged(realm, authzen(realm))
    assert codes == ["ok", "ok", "after_mark"]
    assert (answer["decision"], answer["context"]["reason"]) == (False, "after_mark")


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_doors_of_a_gateway(kind: str, tmp_path: Path) -> None:
    """A program reads the problem of an HTTP upstream, and a model the text of an MCP upstream."""
    realm, ran = UnsafeTestRealm("orders"), list[int]()
    rows = {"marks": [["call", "seen", "session", ["orders.refund"]]], "after": ROWS["after"]}
    caller = realm.caller(Rule(tool="*"), marks=rows)
    with door(kind, realm, tmp_path, lambda: ran.append(1)) as ask:
        answers = [ask(each, "refund") for each in (caller.delegate("test/helper"), caller)]
    assert ran == [1]
    if kind == "http":
        assert (answers[1].status_code, answers[1].json()["code"]) == (403, "after_mark")
        return
    result = answers[1].json()["result"]
    assert result["isError"]
    assert result["_meta"]["dev.arx/refusal"]["code"] == "after_mark"
    assert "the session must not have seen, got seen by orders.refund at orders, " in result["content"][0]["text"]
