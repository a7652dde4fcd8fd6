# SPDX-License-Identifier: Apache-2.0
"""A service could exchange an attenuated task's token for one that is not attenuated.

An attenuation at the mint writes caveats into the task's tokens for one audience.  The service there exchanged its
token for one for another audience, which was signed without them: tools, end, depth and networks were those of the
whole task.  What services alone reach could not be attenuated at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from arx_caps.agent.bundle import Bundle
from arx_caps.agent.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.app import create_app
from arx_caps.mint.runtime import MintRuntime
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore
from tests.mint.test_token_exchange import ORDER, POLICY, Shop, called
from tests.mint.world import ISSUER, World, make_realm
from tests.servers import FAST_LEASE_MS

pytestmark = pytest.mark.servers
ALONE = POLICY.replace('audience = ["orders", "payments"]', 'audience = ["orders"]')  # services alone reach payments


class StoredShop(Shop):
    """The shop with a real store, as an attenuation kills."""

    def __init__(self, world: World) -> None:
        self.furnish(world)

    def attenuated(self, *caveats: dict[str, Any]) -> Task:
        told = self.agent.call("POST", f"/v1/tasks/{self.start().id}/attenuate", {"caveats": {"orders": list(caveats)}})
        return Task(Bundle.parse(told.json()["bundle"]))


@contextmanager
def stored_shop(folder: Path, valkey: EmbeddedValkey, realm_name: str, policy: str) -> Iterator[StoredShop]:
    """Open such a shop in a folder, by a policy."""
    realm = make_realm(folder, realm_name)
    realm.policy_path.write_text(policy)
    with RevocationStore(valkey.url, realm_name) as store:
        store.load_functions()
        store.init(lease_ms=FAST_LEASE_MS)
    mint = MintRuntime.open(Realm.open(realm.folder), store_url=valkey.url)
    with TestClient(create_app(mint), base_url=ISSUER, raise_server_exceptions=False) as client:
        yield StoredShop(World(mint, client))


@pytest.fixture
def shop(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[StoredShop]:
    with stored_shop(tmp_path / "realm", valkey, realm_name, ALONE) as opened:
        yield opened


def test_tools_and_arguments(shop: StoredShop) -> None:
    """Attenuated to read, a task pays nothing through the service that it reads at; attenuated in amount, no more."""
    assert shop.refund(shop.exchange("orders", called(shop.start())), 50) == "ok"
    reading = shop.attenuated({"allow": [{"tool": "orders.get"}]})
    assert shop.refund(shop.exchange("orders", called(reading)), 50) == "tool_not_allowed"
    small = {"args": {"amount": {"max": 20}}, "open": True, "tool": "payments.*"}
    less = shop.attenuated({"allow": [small, {"tool": "orders.get"}]})
    told = shop.exchange("orders", called(less))
    assert [shop.refund(told, amount) for amount in (20, 21)] == ["ok", "argument_not_allowed"]


def test_end_depth_and_network(shop: StoredShop) -> None:
    """What bounds the presented token bounds the one it is exchanged for."""
    assert shop.exchange("orders", called(shop.attenuated({"depth": 0})))["code"] == "too_deep"
    near = shop.attenuated({"net": ["192.0.2.0/24"]})
    assert shop.refund(shop.exchange("orders", called(near)), 50) == "network_not_allowed"


def test_through_another_service(shop: StoredShop) -> None:
    """It holds as many services on as there are."""
    reading = shop.attenuated({"allow": [{"tool": "orders.get"}, {"tool": "ledger.add"}]})
    ledger = Task(Bundle.parse(shop.exchange("orders", called(reading), "ledger")["bundle"]))
    text = ledger.call_token("ledger", "ledger.add", ORDER)
    assert shop.refund(shop.exchange("ledger", text), 5) == "tool_not_allowed"
