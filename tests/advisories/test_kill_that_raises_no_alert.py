# SPDX-License-Identifier: Apache-2.0
"""The kill of an agent, a person or the realm, each of which freezes too, was counted apart and raised no alert.

The alert ArxKill asks for `op="kill"`, and they were `op="kill+freeze"`: only kills of sessions and tasks raised it.
"""

import pytest

from arx_caps.mint.api.metrics import Metrics
from arx_caps.mint.revocation.revoker import Op
from tests.house.monitoring import ALERTS
from tests.mint.harness import Harness

OPERATIONS = {"freeze", "kill", "thaw"}
COUNTED = 'op="kill"}'


@pytest.mark.servers
@pytest.mark.parametrize(("op", "target"), [("kill+freeze", "agent:acme/x"), ("kill", "session:s-" + "a" * 16)])
def test_each_kill_is_one_of_the_kills_that_the_alert_asks_for(live: Harness, op: Op, target: str) -> None:
    """However it was made, a kill of each kind of target adds one to the series, and makes no other one."""
    assert COUNTED in ALERTS["ArxKill"].expr
    metrics = Metrics(live.mint)
    live.mint.log.step()
    assert f"arx_kills_total{{{COUNTED} 0.0" in metrics.text().decode()
    live.mint.revoker.end(op, [target], reason="stolen", by="operator:root", wait=False)
    live.mint.log.step()
    assert live.mint.log.failing is None
    text = metrics.text().decode()
    assert f"arx_kills_total{{{COUNTED} 1.0" in text
    assert {line.split('"')[1] for line in text.splitlines() if line.startswith("arx_kills_total{")} == OPERATIONS
