# SPDX-License-Identifier: Apache-2.0
"""What a killed agent wrote was trusted again after a thaw, if it was frozen after a kill that no mint had seen yet.

The mint asks its database whether a freeze came with a kill.  Of a kill and a freeze that it read at once from the
store's log, it kept the freeze alone; and a freeze whose entry the log had no more counted as one without a kill.
"""

import pytest

from arx_caps.revocation.store import RevocationStore
from arx_verifier.memory.taints import read_window
from tests.mint.harness import AGENT, Harness

pytestmark = [pytest.mark.servers, pytest.mark.spec("18.4")]

TARGET = f"agent:{AGENT}"


def thawed(live: Harness) -> list[str]:
    """Thaw the agent at the mint; return what of its entries is tainted after that."""
    body = {"targets": [TARGET], "reason": "test", "wait": False}
    assert live.operator().call("POST", "/v1/freezes/thaw", body).status_code == 200
    windows = [window for text in live.mint.store.freezes() if (window := read_window(text)) is not None]
    return [window.target for window in windows if window.since == 0]


@pytest.mark.parametrize("second", ["freeze", "direct"])
def test_a_kill_while_no_mint_ran(live: Harness, second: str) -> None:
    """An operator killed it in the store itself, and froze it once more, there or at the mint."""
    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        store.kill_by_kind([TARGET], "test", "operator:eve")
        if second == "direct":
            store.freeze([TARGET], "test", "operator:eve")
    if second == "freeze":
        body = {"targets": [TARGET], "reason": "test", "wait": False}
        assert live.operator().call("POST", "/v1/freezes", body).status_code == 200
    assert thawed(live) == [TARGET]


def test_a_kill_that_the_log_has_no_more(live: Harness) -> None:
    """The history ended before a mint saw the kill: the freeze is found without its entry."""
    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        store.kill_by_kind([TARGET], "test", "operator:eve")
        store.rotate()
    body = {"targets": ["agent:acme/other"], "reason": "test", "wait": False}
    assert live.operator().call("POST", "/v1/freezes", body).status_code == 200
    assert thawed(live) == [TARGET]


def test_a_freeze_alone(live: Harness) -> None:
    """A thaw of what was never killed gives all back."""
    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        store.freeze([TARGET], "test", "operator:eve")
    assert thawed(live) == []
