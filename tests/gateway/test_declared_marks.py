# SPDX-License-Identifier: Apache-2.0
"""An upstream or decider whose table declares a warning of all of its calls."""

import json
from pathlib import Path

import httpx
import msgspec
import pytest

from arx_caps.gateway.base.settings import UpstreamTerms, read_settings
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier.errors import SettingsError
from arx_verifier.metrics.counted_decisions import Counts
from arx_verifier.testing import Rule, UnsafeTestRealm
from tests.gateway.test_effects import JSON, call_tool, gateway, message

pytestmark = pytest.mark.spec("21.3")

AFTER = {"after": [[["untrusted"], ["orders.refund"]]]}


@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_a_call_sets_what_its_upstream_declares_before_it_is_forwarded(kind: str, tmp_path: Path) -> None:
    """The upstream's next call in the session is judged by it, also if this one was not forwarded or has failed."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="*"), marks=AFTER)
    ran: list[int] = []
    with (
        gateway(kind, realm, tmp_path, 500, JSON, message(), lambda: ran.append(1), marks=["untrusted"]) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        if kind == "http":
            answers = [client.post(f"{url}/refund", auth=caller).text for _ in range(2)]
        else:
            answers = [call_tool(url, caller, "refund").text for _ in range(2)]
    assert ["after_mark" in answer for answer in answers] == [False, True]
    assert ran == [1]


def test_a_table_s_marks_reach_its_verifier(tmp_path: Path) -> None:
    """As the running gateway opens it; it does not start at a service without a ledger."""
    path = tmp_path / "orders.json"
    file = {"v": 1, "realm": "acme", "audience": "orders", "max_ttl_ms": 1000, "keys": {"k1.0": "A" * 43}}
    file |= {"store": "redis://127.0.0.1:1", "journal": str(tmp_path / "journal")}
    terms = msgspec.convert({"audience": "orders", "url": "http://127.0.0.1:9", "marks": ["untrusted"]}, UpstreamTerms)

    def opened() -> RunningVerifier:
        path.write_text(json.dumps(file))
        path.chmod(0o600)
        return RunningVerifier("upstream.orders", "orders", terms, path, None, Counts(int))

    with pytest.raises(SettingsError, match="marks are set in the ledger"):
        opened()
    file |= {"ledger": "redis://127.0.0.1:2"}
    assert opened().verifier._declared == ("untrusted",)


FILE = """\
[gateway]
listen = ["127.0.0.1:9190"]

[decider.orders]
kind = "forward-auth"
listen = "127.0.0.1:9191"
audience = "orders"
routes = { "POST /refund" = "orders.refund" }
marks = ["untrusted"]
spends = false

[upstream.shop]
audience = "shop"
url = "http://127.0.0.1:9/mcp"
marks = ["not trusted"]
"""


def test_a_table_declares_names_of_marks_where_it_sets_them(tmp_path: Path) -> None:
    """A decider before another verifier sets none; a name has the form of one."""
    path = tmp_path / "gateway.toml"
    path.write_text(FILE)
    with pytest.raises(SettingsError, match="the verifier behind the proxy sets marks"):
        read_settings(path)
    path.write_text(FILE.replace("spends = false\n", ""))
    with pytest.raises(SettingsError, match="expected names of marks"):
        read_settings(path)
