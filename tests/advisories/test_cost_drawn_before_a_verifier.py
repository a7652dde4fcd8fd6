# SPDX-License-Identifier: Apache-2.0
"""A reader of a call could empty its task's budget, at a decider that leaves calls to a verifier behind it.

Such a decider (`spends = false`) uses up no call, but it drew the cost, each time that the call came, and the verifier
behind it drew again.  Now it draws nothing, says nothing of what is left, and needs no ledger.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.deciders.decider_runtime import UnspentCalls
from arx_verifier import Rule
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.token.caveats import spend_caveats
from arx_verifier.verification.verifier import Verifier
from tests.agent.live import now_ms
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, gateway
from tests.servers import free_ports, until

pytestmark = pytest.mark.spec("17.4")
TABLE: Final = """
[decider.{name}]
kind = "forward-auth"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "{name}.json"
spends = {spends}
[decider.{name}.routes]
"GET /orders" = "orders.list"
"""
EMPTY: Final = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def test_a_call_costs_once() -> None:
    """However often the verifier before is asked about it."""
    realm = UnsafeTestRealm("orders", costs={"orders.*": {"usd": "0.5"}})
    behind = realm.verifier
    same: dict[str, Any] = {"keys": behind.keys, "epochs": behind.epochs, "decisions": behind.decisions}
    before = Verifier(audience="orders", nonces=UnspentCalls(), draws=False, **same)
    caller = realm.caller(Rule(tool="orders.list"), budget={"usd": "1"})
    for left in ("0.5", "0"):
        token, request = caller.token("orders.list"), AccessRequest("orders.list", {}, now_ms())
        for _ in range(3):
            assert not before.verify(token, request).has_budget
        assert behind.verify(token, request).remaining == {"usd": left}
    decision = behind.decide(caller.token("orders.list"), AccessRequest("orders.list", {}, now_ms()))
    assert decision.code == "budget_exhausted"


@pytest.fixture
def site(tmp_path: Path, valkey: EmbeddedValkey) -> Iterator[tuple[GatewayRealm, int, int]]:
    """A gateway with both kinds of deciders, whose service file names a ledger that does not exist."""
    realm = GatewayRealm(tmp_path, valkey.url, name="costs")
    more: dict[str, Any] = {"ledger": f"unix://{tmp_path}/none.sock", "costs": {"orders.*": {"usd": "0.5"}}}
    for name in ("sparing", "spending"):
        realm.write_service(f"{name}.json", journal=name)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    own, sparing, spending = free_ports(3)
    tables = TABLE.format(name="sparing", port=sparing, spends="false")
    tables += TABLE.format(name="spending", port=spending, spends="true")
    with gateway(realm.write(tables, port=own), tmp_path / "gateway.log"):
        yield realm, sparing, spending


@pytest.mark.slow
@pytest.mark.servers
def test_a_decider_that_spends_no_call_asks_no_ledger(site: tuple[GatewayRealm, int, int]) -> None:
    """One that spends it refuses the same call without its ledger."""
    realm, sparing, spending = site
    whole = realm.caller(Rule(tool="orders.list"), session="s-" + "a" * 16)
    macaroon = whole.macaroon.attenuate(*spend_caveats("test", {"usd": "1"}, "task", now_ms()))
    signer = CallSigner(macaroon, AUDIENCE)

    def ask(port: int) -> httpx.Response:
        token = signer.sign(http_fields(HttpCall("GET", b"/orders", EMPTY)), now_ms())
        headers = {"x-forwarded-method": "GET", "x-forwarded-uri": "/orders", "authorization": f"Bearer {token}"}
        return httpx.get(f"http://127.0.0.1:{port}/", headers=headers, timeout=30)

    # A new store refuses calls of its first second.
    until(lambda: ask(sparing).status_code == 200)
    assert "arx-budget" not in ask(sparing).headers
    refused = ask(spending)
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
