# SPDX-License-Identifier: Apache-2.0
"""A call whose result agentgateway had to withhold after a kill had no record of its end, unlike at each other door."""

import asyncio
import json
from typing import Any

import pytest

from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_verifier import Rule
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway import protos

PACKAGE = "agentgateway.dev.ext_mcp"


@pytest.mark.spec("11", "12.1")
def test_a_call_that_a_kill_ends_is_recorded_as_ended() -> None:
    """
    Once, however often the proxy asks about its result; with the id of the decision that allowed it.
    """
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get"))
    decider = ExtMcp(
        realm.verifier, DeciderTerms(kind="ext-mcp", listen="127.0.0.1:1", audience="orders", backend="shop")
    )

    def ask(kind: str, **members: Any) -> Any:
        asked = protos.message(f"{PACKAGE}.Mcp{kind}")(service_names=["shop"], method="tools/call", **members)
        return asyncio.run(decider.answer(f"Check{kind}", asked, "127.0.0.1"))

    token = caller.token("orders.get", order_id="o-1")
    params = {"name": "get", "arguments": {"order_id": "o-1"}, "_meta": {META_KEY: token}}
    allowed = ask("Request", mcp_request=json.dumps(params).encode())
    [decision] = realm.decisions.decisions
    assert decision.allowed
    realm.epochs.kill("session:s-test")
    for _ in range(2):
        answer = ask("Response", mcp_response=b'{"content":[]}', metadata_context={"arx": allowed.metadata["arx"]})
        refused = json.loads(answer.error.mcp_error)
        assert (refused["code"], refused["decision"]) == ("revoked", decision.id)
    [_, ended] = realm.decisions.decisions
    assert (ended.outcome, ended.code, ended.tool) == ("end", "revoked", "orders.get")
