# SPDX-License-Identifier: Apache-2.0
"""MCP messages without a framework: what they mean, what a live token is, and what a list may show."""

import asyncio
import time
from typing import Any

import pytest

from arx_verifier import Caveat, Constraint, RequestError, Rule
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages, mcp_meaning
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.nonces import MemoryNonces

RULES = (
    Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}),
    Rule(tool="orders.of.*"),
    Rule(tool="orders.resources.read", args={"uri": Constraint(one_of=("orders://1", "orders://2"))}),
    Rule(tool="orders.prompts.get", args={"name": "brief", "arguments": Constraint(max_length=3)}),
)


@pytest.mark.spec("8.2")
def test_each_method_has_one_meaning() -> None:
    """A tool is called by its name; a resource and a prompt by their method; the envelope is no argument."""
    call = {"name": "get", "arguments": {"order_id": "o-1"}, "_meta": {"x": 1}, "requestState": "s"}
    assert mcp_meaning("orders", "tools/call", call) == ("orders.get", {"order_id": "o-1"})
    assert mcp_meaning("orders", "tools/call", {"name": "get"}) == ("orders.get", {})
    assert mcp_meaning("orders", "resources/read", {"uri": "orders://1", "_meta": {}}) == (
        "orders.resources.read",
        {"uri": "orders://1"},
    )
    assert mcp_meaning("orders", "prompts/get", {"name": "a", "arguments": {"b": "c"}}) == (
        "orders.prompts.get",
        {"name": "a", "arguments": {"b": "c"}},
    )
    assert mcp_meaning("orders", "tools/list", {"cursor": "2"}) == ("", {"method": "tools/list"})
    assert mcp_meaning("orders", "tasks/get", {"taskId": "7"}) == ("", {"method": "tasks/get", "taskId": "7"})


@pytest.mark.spec("8.2")
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {}),
        ("tools/call", {"name": ""}),
        ("tools/call", {"name": ["get"]}),
        ("tools/call", {"name": "get", "arguments": "order_id=1"}),
        ("tools/call", {"name": "resources.read", "arguments": {"uri": "orders://9"}}),
        ("resources/read", {"uri": "orders://%31"}),
        ("resources/read", {"uri": "files://a%2fb"}),
        ("orders/purge", {}),
        ("tasks/purge", {"taskId": "1"}),
    ],
)
def test_what_has_no_single_meaning_is_refused(method: str, params: dict[str, Any]) -> None:
    """A tool must not be named as a method is, a URI must not be spelled in two ways, and a method must be known."""
    with pytest.raises(RequestError):
        mcp_meaning("orders", method, params)


def recognized(realm: UnsafeTestRealm, token: object) -> str:
    """The code with which a list is refused; ``ok`` if it is not."""
    message = McpMessage("tools/list", {}, {META_KEY: token})
    try:
        asyncio.run(Messages(realm.verifier).recognize(message))
    except RefusedCall as problem:
        return problem.code
    return "ok"


@pytest.mark.spec("11")
def test_a_list_needs_a_live_token_and_spends_it() -> None:
    """Every step but those of the tool is taken: its proof, its time, its conditions, its nonce and the kills."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES)
    token = caller.token("", method="tools/list")
    assert recognized(realm, token) == "ok"
    assert not realm.decisions.decisions
    assert recognized(realm, token) == "replayed"
    assert recognized(realm, caller.token("", method="ping")) == "proof_invalid"
    assert recognized(realm, caller.token("orders.get", order_id="o-1")) == "proof_invalid"
    assert recognized(realm, caller.macaroon.encode()) == "proof_missing"
    assert recognized(realm, UnsafeTestRealm("orders").caller(*RULES).token("", method="tools/list")) == "bad_signature"
    assert recognized(realm, realm.caller(*RULES, ttl_ms=-1).token("", method="tools/list")) == "expired"
    assert recognized(realm, 7) == "malformed"
    assert recognized(realm, "") == "missing_token"
    realm.epochs.kill("agent:test/agent")
    assert recognized(realm, caller.token("", method="tools/list")) == "revoked"


@pytest.mark.spec("8.2")
@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel", "tasks/update", "tasks/list"])
def test_a_message_about_a_task_needs_one_who_holds_tasks_apart(method: str) -> None:
    """A guarded server gives its ids to all callers, so it refuses these messages, also through a pipe."""
    realm = UnsafeTestRealm("orders")
    caller, task = realm.caller(*RULES), {"taskId": "7"}

    def code(task_of_proof: str, **keeper: bool) -> str:
        token = caller.token("", method=method, taskId=task_of_proof)
        try:
            asyncio.run(Messages(realm.verifier, **keeper).recognize(McpMessage(method, task, {META_KEY: token})))
        except RefusedCall as problem:
            return problem.code
        return "ok"

    assert code("7") == "malformed_request"
    assert code("7", tasks=True) == "ok"
    assert code("8", tasks=True) == "proof_invalid"
    for keeper in (Messages(realm.verifier), Messages(realm.verifier, tasks=True)):
        with pytest.raises(RefusedCall):
            asyncio.run(keeper.recognize(McpMessage(method, task, {})))


@pytest.mark.spec("8.3")
def test_a_list_that_was_signed_before_the_start_is_marked() -> None:
    """The client then signs it anew by itself."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(*RULES).token("", method="tools/list")
    realm.verifier.nonces = MemoryNonces(now_ms=time.time_ns() // 1_000_000 + 60_000)
    with pytest.raises(RefusedCall) as refused:
        asyncio.run(Messages(realm.verifier).recognize(McpMessage("tools/list", {}, {META_KEY: token})))
    assert (refused.value.code, refused.value.failures[0].rule) == ("proof_invalid", "start")


@pytest.mark.spec("8.2")
def test_the_token_of_a_list_calls_no_tool() -> None:
    """Its tool is empty, and no rule allows that, not even ``*``."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(Rule(tool="*")).token("", method="tools/list")
    with pytest.raises(RefusedCall) as refused:
        asyncio.run(
            Messages(realm.verifier).decide(McpMessage("tools/call", {"name": "tools.list"}, {META_KEY: token}))
        )
    assert refused.value.code == "proof_invalid"


@pytest.mark.spec("7")
def test_a_list_shows_what_every_allow_could_let_through() -> None:
    """An argument that the item names must be one that a rule of each caveat takes; others may still come."""
    realm = UnsafeTestRealm("orders")
    messages, macaroon = Messages(realm.verifier), realm.caller(*RULES).macaroon
    narrowed = macaroon.attenuate(
        Caveat(allow=(Rule(tool="orders.get"), Rule(tool="orders.resources.*", args={"uri": "orders://1"})))
    )
    seen = {}
    for name, held in (("whole", macaroon), ("narrowed", narrowed)):
        screened = realm.verifier.screen(held.encode())
        assert not isinstance(screened, str)
        items = [
            *(("tools/list", tool) for tool in ("get", "of.drop", "drop", "resources.read")),
            *(("resources/list", f"orders://{number}") for number in (1, 2, 3)),
            ("resources/templates/list", "orders://{id}"),
            *(("prompts/list", prompt) for prompt in ("brief", "hidden")),
        ]
        seen[name] = [item for method, item in items if messages.shows(McpMessage(method, {}, {}), screened, item)]
    assert seen == {
        "whole": ["get", "of.drop", "orders://1", "orders://2", "orders://{id}", "brief"],
        "narrowed": ["get", "orders://1", "orders://{id}"],
    }
    assert not messages.shows(McpMessage("tools/list", {}, {}), None, "get")
