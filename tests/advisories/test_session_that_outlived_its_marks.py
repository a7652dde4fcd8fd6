# SPDX-License-Identifier: Apache-2.0
"""A session lost its marks seven days after the last new one, in the midst of its calls, and all were refused then.

A call that sets a mark again changed nothing, and so did not keep the marks.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import KEEP_MS, MarkQuestion, Taken
from tests.ledgers import look, new_ledger, only_bucket

pytestmark = pytest.mark.spec("21.5")

DAY_MS = 86_400_000


def test_a_call_a_day_keeps_the_marks_in_memory() -> None:
    """Ten days after its first mark, the session is still judged by what it did."""
    times = [now_ms()]
    ledger = MemoryLedger(clock=lambda: times[0])
    asked = MarkQuestion("s-1", times[0], times[0], "web.get web", sets=("w:s:untrusted",))
    for _ in range(10):
        assert isinstance(ledger.take("draw", "", (), None, asked), Taken)
        times[0] += DAY_MS
    unset = asked._replace(sets=(), after=((("w:s:private",),),))
    assert isinstance(ledger.take("draw", "", (), None, unset), Taken)
    times[0] += KEEP_MS
    assert not isinstance(ledger.take("draw", "", (), None, unset), Taken)


@pytest.mark.servers
def test_a_call_keeps_the_marks_at_a_server(tmp_path: Path) -> None:
    """A call that sets nothing anew moves the time from which a server counts."""
    with EmbeddedValkey(tmp_path) as valkey:
        ledger = new_ledger(valkey.url, "acme")
        ledger.start()
        try:
            while now_ms() <= look(ledger)[1]:
                pass  # a session of the same millisecond counts as lost
            opened = now_ms()
            asked = MarkQuestion("s-1", opened, opened, "web.get web", sets=("w:s:untrusted",))
            assert isinstance(ledger.take("draw", "", (), None, asked), Taken)
            bucket = only_bucket(ledger)
            [key] = ledger._read(bucket, lambda server, _: server.keys("*m:s-1"))
            old = str(opened - 6 * DAY_MS)
            ledger._read(bucket, lambda server, _: server.hset(key, "u", old))
            assert isinstance(ledger.take("draw", "", (), None, asked), Taken)
            used = ledger._read(bucket, lambda server, _: server.hget(key, "u"))
            assert int(used) >= opened
        finally:
            ledger.close()
