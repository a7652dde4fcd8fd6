# SPDX-License-Identifier: Apache-2.0
"""A store that lost a freeze gets it again from the database: at a mint's start, and while it runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.jose import KeyFile
from arx_caps.mint.revocation.freezes import freezes_of
from arx_caps.mint.runtime import MintRuntime
from arx_caps.realm import Realm
from tests.mint.world import AGENT, ISSUER, World, client_of, make_realm

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.12")]


@pytest.fixture
def world(tmp_path: Path, realm_name: str, database: str | None, valkey: EmbeddedValkey) -> Iterator[World]:
    realm = make_realm(tmp_path / "realm", realm_name, database=database)
    mint = MintRuntime.open(realm, store_url=valkey.url)
    with client_of(mint) as client:
        yield World(mint, client)


def test_what_is_ended_stays_frozen(world: World) -> None:
    """A deactivated agent, a removed operator, a key that was stolen: lost in the store, put back and recorded."""
    world.enrol()
    operator = world.operator()
    key = KeyFile.generate("operator", "gone", ISSUER)
    operator.call("POST", "/v1/operators", {"name": "gone", "jwk": key.key.public.jwk, "role": "read-only"})
    operator.call("POST", "/v1/services", {"audience": "orders"})
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 200
    assert operator.call("DELETE", "/v1/operators/gone").status_code == 200
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 200
    wanted = {f"agent:{AGENT}", "operator:gone", "key:k1.1"}
    assert freezes_of(world.mint.db) == wanted
    store = world.mint.store
    assert wanted <= set(store.freezes())
    assert world.mint.freezes.restore() == []
    # Somebody restored an old copy of the freezes, or thawed them in the store itself.
    store.thaw(sorted(wanted), "lost", "nobody")
    assert world.mint.freezes.restore() == sorted(wanted)
    assert wanted <= set(store.freezes())
    told = [event for event in world.events() if event["kind"] == "targets.frozen" and event["by"] == "mint"]
    assert told[-1]["targets"] == sorted(wanted)
    # A mint that starts looks as well.
    store.thaw(sorted(wanted), "lost", "nobody")
    second = MintRuntime.open(Realm.open(world.realm.folder), store_url=world.mint.store_url)
    second.start()
    second.close()
    assert wanted <= set(store.freezes())


def test_a_thawed_agent_is_not_frozen_again(world: World) -> None:
    """What an operator thaws at the mint is wanted no more."""
    world.enrol()
    operator = world.operator()
    operator.call("DELETE", f"/v1/agents/{AGENT}")
    answer = operator.call("POST", "/v1/freezes/thaw", {"targets": [f"agent:{AGENT}"], "reason": "back", "wait": False})
    assert answer.status_code == 200
    assert freezes_of(world.mint.db) == set()
    assert world.mint.freezes.restore() == []
    assert f"agent:{AGENT}" not in world.mint.store.freezes()
