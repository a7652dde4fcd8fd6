# SPDX-License-Identifier: Apache-2.0
"""A session whose marks were lost was clean again as soon as any call set another mark in it.

The ledger took each session that it had for one that it knew since its opening.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import KEEP_MS, Ledger, MarkQuestion, Stopped, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import look, new_ledger, only_bucket

pytestmark = pytest.mark.spec("21.5")

DAY_MS = 86_400_000
ROWS: dict[str, dict[str, Any]] = {
    "after": {"after": ((("w:s:untrusted",),),)},
    "only_after": {"only_after": ((("p:s:tested",), 0),)},
    "distinct": {"distinct": (("x", 5, ("0" * 32,)),)},
}


def stays_lost(ledger: Ledger, opened: int) -> None:
    """Set marks in a session, and let each kind of row judge a call of it, before and after."""
    asked = MarkQuestion("s-1", opened, now_ms(), "web.get web")
    for sets in ((), ("w:s:other", "p:s:saved")):
        if sets:
            assert isinstance(ledger.take("draw", "", (), None, asked._replace(sets=sets)), Taken)
        for member, row in ROWS.items():
            stopped = ledger.take("draw", "", (), None, asked._replace(**row))
            assert isinstance(stopped, Stopped), (member, sets)
            assert stopped.member == member


def test_a_session_that_memory_has_forgotten() -> None:
    """Its marks are kept for 7 days: a mark of the eighth day does not end the loss."""
    times = [now_ms()]
    ledger = MemoryLedger(clock=lambda: times[0])
    opened = times[0]
    ledger.take("draw", "", (), None, MarkQuestion("s-1", opened, opened, "web.get web", sets=("w:s:untrusted",)))
    times[0] += KEEP_MS
    stays_lost(ledger, opened)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[RedisLedger]:
    """A ledger at a server of its own, which has begun."""
    with EmbeddedValkey(tmp_path) as valkey:
        found = new_ledger(valkey.url, "acme")
        found.start()
        yield found
        found.close()


@pytest.mark.servers
def test_a_session_that_a_server_has_forgotten(ledger: RedisLedger) -> None:
    """The same at a server that began ten days ago."""
    began = str(now_ms() - 10 * DAY_MS)
    ledger._read(only_bucket(ledger), lambda server, at: server.hset(at.header, "since", began))
    stays_lost(ledger, now_ms() - 8 * DAY_MS)


@pytest.mark.servers
def test_a_session_that_the_server_before_did_not_know(ledger: RedisLedger) -> None:
    """After a clean end the sessions that the data have go on, and no other one."""
    since = look(ledger)[1]
    while now_ms() <= since:
        pass  # a session of the same millisecond counts as lost
    opened = now_ms()
    known = MarkQuestion("s-2", opened, opened, "web.get web", sets=("w:s:other",))
    ledger.take("draw", "", (), None, known)
    assert ledger.seal("seal")
    assert ledger.open("seal")
    stays_lost(ledger, opened)
    assert isinstance(ledger.take("draw", "", (), None, known._replace(**ROWS["after"])), Taken)
