# SPDX-License-Identifier: Apache-2.0
"""Marks at the doors of a gateway and at each decider: what a sub-agent has read binds the agent above it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.gateway.base.settings import DeciderTerms, UpstreamTerms
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier import Rule
from arx_verifier.metrics.counted_decisions import Counts
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


PROVEN = {"marks": [["done", "refunded", "session", ["orders.refund"]]]}


@pytest.mark.spec("21.3")
@pytest.mark.parametrize("kind", [forward_auth, ext_authz, ext_mcp, authzen])
def test_a_decider_refuses_a_call_whose_answer_proves_a_mark(kind: Callable[[UnsafeTestRealm], Ask]) -> None:
    """It sees none: it names that, and lets each other call pass."""
    realm = UnsafeTestRealm("orders")
    realm.verifier = realm.verifier.within(answers=False)
    ask, caller = kind(realm), realm.caller(Rule(tool="*"), marks=PROVEN)
    ask(caller, "get")
    ask(caller, "refund")
    allowed, refused = realm.decisions.decisions
    assert (allowed.code, refused.code, refused.effect) == ("ok", "mark_unsupported", None)
    [failure] = refused.failures
    assert "sees the answer" in failure.expected
    assert failure.came == "a decider, which sees none"


@pytest.mark.spec("21.3")
@pytest.mark.parametrize("kind", [UpstreamTerms, DeciderTerms])
def test_a_running_decider_sees_no_answers(kind: Any, tmp_path: Path) -> None:
    """And an upstream does; as the gateway opens both."""
    path = tmp_path / "orders.json"
    file = {"v": 1, "realm": "acme", "audience": "orders", "max_ttl_ms": 1000, "keys": {"k1.0": "A" * 43}}
    file |= {"store": "redis://127.0.0.1:1", "journal": str(tmp_path / "journal")}
    path.write_text(json.dumps(file))
    path.chmod(0o600)
    where = {"kind": "forward-auth", "listen": "127.0.0.1:9"} if kind is DeciderTerms else {"url": "http://127.0.0.1:9"}
    terms = msgspec.convert({"audience": "orders", **where}, kind)
    opened = RunningVerifier("x", "orders", terms, path, None, Counts(int))
    assert opened.verifier._answers is (kind is UpstreamTerms)


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
