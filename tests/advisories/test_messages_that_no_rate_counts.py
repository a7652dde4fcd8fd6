# SPDX-License-Identifier: Apache-2.0
"""An agent could send an upstream of the gateway as many messages as it liked, if they called no tool.

The rate of an agent counted calls alone: lists, notifications, and requests that start a process each were free.
A call that was over the rate of its tool was not forwarded, and used up what the agent had for its other tools.
"""

import json

import pytest

from arx_caps.gateway.base.rates import OverRateError, Rates
from arx_caps.gateway.base.settings import RateTerms
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed


def test_each_message_counts() -> None:
    """The answer of JSON-RPC to a request is an error; to all else it is status 429."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    upstream = Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}'))
    door = Door(realm, upstream, RateTerms(agent="4/1h"))
    assert "result" in door.message(caller, "initialize")
    assert "result" in door.message(caller, "tools/list")
    assert "result" in door.message(caller, "tools/call", {"name": "get"})
    note = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
    assert door.ask(note, signed(caller, note))[0] == 200
    for method, params in (("tools/list", {}), ("tools/call", {"name": "get"})):
        assert door.message(caller, method, params)["error"]["data"]["code"] == "rate_limited"
    assert door.ask(note, signed(caller, note))[0] == 429
    assert door.ask(b"", signed(caller, b"", "DELETE"), method="DELETE")[0] == 429
    other = realm.caller(Rule(tool="files.get"), agent="test/b")
    assert "result" in door.message(other, "tools/list")
    assert len(upstream.got) == 5


def test_a_call_that_is_not_forwarded_costs_nothing() -> None:
    """One tool over its rate leaves the agent its other tools."""
    rates = Rates(RateTerms(agent="3/1h", tool="1/1h"))
    rates.charge("acme/a", None, "files.get")
    for _ in range(5):
        with pytest.raises(OverRateError):
            rates.charge("acme/a", None, "files.get")
    rates.charge("acme/a", None, "files.put")
    rates.charge("acme/a", None)
    with pytest.raises(OverRateError):
        rates.charge("acme/a", None)
