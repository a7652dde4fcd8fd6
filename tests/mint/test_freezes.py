# SPDX-License-Identifier: Apache-2.0
"""A store that lost a freeze gets it again from the database: at a mint's start, and while it runs."""

import pytest

from arx_caps.jose import KeyFile
from arx_caps.mint.revocation.freezes import freezes_of
from arx_caps.mint.runtime import MintRuntime
from arx_caps.realm import Realm
from arx_verifier.memory import read_window
from tests.mint.harness import AGENT, ISSUER, Harness

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.12")]


def test_what_is_ended_stays_frozen(live: Harness) -> None:
    """A deactivated agent, a removed operator, a key that was stolen: lost in the store, put back and recorded."""
    live.enrol()
    operator = live.operator()
    key = KeyFile.generate("operator", "gone", ISSUER)
    operator.call("POST", "/v1/operators", {"name": "gone", "jwk": key.key.public.jwk, "role": "read-only"})
    operator.call("POST", "/v1/services", {"audience": "orders"})
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 200
    assert operator.call("DELETE", "/v1/operators/gone").status_code == 200
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 200
    wanted = {f"agent:{AGENT}", "operator:gone", "key:k1.1"}
    assert freezes_of(live.mint.db) == wanted
    store = live.mint.store
    assert wanted <= set(store.freezes())
    assert live.mint.freezes.restore() == []
    # Somebody restored an old copy of the freezes, or thawed them in the store itself.
    store.thaw(sorted(wanted), "lost", "nobody")
    assert live.mint.freezes.restore() == sorted(wanted)
    assert wanted <= set(store.freezes())
    told = [event for event in live.events() if event["kind"] == "targets.frozen" and event["by"] == "mint"]
    assert told[-1]["targets"] == sorted(wanted)
    # A mint that starts looks as well.
    store.thaw(sorted(wanted), "lost", "nobody")
    second = MintRuntime.open(Realm.open(live.realm.folder), store_url=live.mint.store_url)
    second.start()
    second.close()
    assert wanted <= set(store.freezes())


def test_a_thawed_agent_is_not_frozen_again(live: Harness) -> None:
    """What an operator thaws at the mint is wanted no more."""
    live.enrol()
    operator = live.operator()
    operator.call("DELETE", f"/v1/agents/{AGENT}")
    answer = operator.call("POST", "/v1/freezes/thaw", {"targets": [f"agent:{AGENT}"], "reason": "back", "wait": False})
    assert answer.status_code == 200
    # What it wrote before the kill stays tainted.
    (taint,) = map(read_window, freezes_of(live.mint.db))
    assert taint is not None
    assert taint[:2] == (f"agent:{AGENT}", 0)
    assert live.mint.freezes.restore() == []
    assert f"agent:{AGENT}" not in live.mint.store.freezes()
