# SPDX-License-Identifier: Apache-2.0
"""An agent with thousands of refused calls made no notification, and must not make thousands, nor fill the table."""

import pytest

from arx_caps.mint.notifications import alarms
from tests.audit.batches import START_MS, batch_of, decision, facts
from tests.mint.harness import Harness, now_ms

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7.4")]
REFUSALS = 10_000


@pytest.mark.slow
@pytest.mark.realm(settings='webhook_hosts = ["127.0.0.1:9"]\n')
def test_ten_thousand_refusals_are_one_row(live: Harness) -> None:
    """For a receiver that takes nothing, however many mints look at it, and however often."""
    mint = live.mint
    add = {"url": "http://127.0.0.1:9/alerts", "events": ["refusals.high"]}  # no receiver listens there
    assert live.operator().call("POST", "/v1/webhooks", add).status_code == 201
    rogue = decision(now_ms() - START_MS, facts(agent="acme/rogue"), "argument_not_allowed")
    for first in range(1, REFUSALS + 1, 2000):
        mint.log.store.take(batch_of([rogue] * 2000, first), "s")
        mint.log.step()
        for _ in range(3):
            alarms.Alarms(mint.db, mint.store, mint.log).look()
    (row,) = mint.db.notifications.page()
    assert (row.kind, row.facts["agents"]) == ("refusals.high", ["acme/rogue"])
