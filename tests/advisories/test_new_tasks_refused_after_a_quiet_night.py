# SPDX-License-Identifier: Apache-2.0
"""A ledger that was restarted in a quiet night refused the budgets of the first new tasks of the morning for a minute.

The minute began with the first call.  Now mint and verifiers look at the ledger without a call, and the refusal of a
task that began too early names the time after which another one can draw.
"""

import time
from contextlib import closing
from pathlib import Path

import pytest

from arx_verifier import Rule
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import LOST, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.ledgers import new_ledger
from tests.servers import free_ports, until
from tests.topologies.fleet import Server, running, wait_for

pytestmark = pytest.mark.spec("17.5")

HEADER = "arx:budget:{acme}:h"


@pytest.mark.servers
def test_a_restart_without_calls(tmp_path: Path) -> None:
    """The minute counts from the first look after it; a task that starts a minute later has its budget."""
    server = Server(tmp_path / "server", free_ports(1)[0], "--appendonly", "yes", "--save", "")
    with running(server), closing(new_ledger(f"redis://127.0.0.1:{server.port}", "acme")) as looks:
        looks.start()
        before = server.ask("HGET", HEADER, "run")
        server.kill()
        with pytest.raises(StoreError):
            looks.latest()  # the outage is over before the next look
        server.start()
        wait_for(server)
        until(lambda: server.ask("HGET", HEADER, "run") != before)
        since = int(server.ask("HGET", HEADER, "since"))
        assert since <= _now_ms() + 60_000
        with closing(RedisLedger(f"redis://127.0.0.1:{server.port}", "acme", timeout_s=30)) as ledger:
            early = ledger.take("draw", "", [PoolDraw("t/-/p/usd/task", 100, 0, _now_ms() - 1, 1, 1)])
            assert isinstance(early, Short)
            assert (early.remaining, 0 < early.wait_ms <= 60_000) == (LOST, True)
            server.ask("HSET", HEADER, "since", since - 60_000)  # a minute later
            assert isinstance(
                ledger.take("draw", "", [PoolDraw("t/-/q/usd/task", 100, 0, since - 59_999, 1, 1)]), Taken
            )


def test_the_refusal_says_when_another_task_can_draw() -> None:
    """In so many seconds, and now once these are over."""
    realm = UnsafeTestRealm("pay", costs={"pay.refund": {"usd": "1"}})
    caller = realm.caller(Rule(tool="pay.*"), budget={"usd": "5"})
    realm.ledger.since = _now_ms() + 60_000

    def text() -> str:
        decision = realm.verifier.decide(caller.token("pay.refund"), AccessRequest("pay.refund", {}, _now_ms()))
        assert decision.code == "budget_exhausted"
        return str(decision.failures[0])

    assert "start another task in 6" in text()
    realm.ledger.since -= 60_000
    assert "start another task now" in text()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
