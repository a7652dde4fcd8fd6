# SPDX-License-Identifier: Apache-2.0
"""A mark that was lifted and set again while the ledger's clock stood still counted as the one that was approved."""

from contextlib import closing
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import MarkQuestion, MarkSetting, Stopped, Taken
from tests.ledgers import begin, header_of, new_ledger

pytestmark = pytest.mark.spec("21.4", "21.8")
READ = MarkQuestion("s-1", 0, 0, "web.get web", sets=("w:s:untrusted",))
PAY = MarkQuestion("s-1", 0, 0, "orders.pay orders", after=((("w:s:untrusted",),),))


@pytest.mark.servers
def test_a_clock_that_was_set_back_gives_no_time_twice(tmp_path: Path) -> None:
    """The ledger's time waits for the clock then; an operator lifts the mark, and a call sets it again."""
    with EmbeddedValkey(tmp_path) as server, closing(new_ledger(server.url, "acme")) as ledger:
        begin(ledger)
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            ahead = now_ms() + 600_000
            client.hset(header_of(client, "acme"), "seen", ahead)
        read, pay = READ._replace(opened=ahead), PAY._replace(opened=ahead)
        assert isinstance(ledger.take("draw", "", (), None, read), Taken)
        [shown] = ledger.marks("s-1", ahead, "untrusted")[1].values()
        assert isinstance(ledger.take("draw", "", (), None, read), Taken)
        [again] = ledger.marks("s-1", ahead)[1].values()
        assert MarkSetting.read(shown).at < MarkSetting.read(again).at
        for value, expected in ((shown, Stopped), (again, Taken)):
            approved = pay._replace(shown=(((MarkSetting.read(value).at,),),))
            assert isinstance(ledger.take("draw", "", (), None, approved), expected)


def test_marks_of_one_moment_have_times_of_their_own() -> None:
    """Of two calls that set a mark of one name, of the session and of the task, an approval names one."""
    now = now_ms()
    ledger = MemoryLedger(clock=lambda: now)
    read = READ._replace(opened=now)
    for each in (read, read._replace(sets=("w:t/1:untrusted",))):
        assert isinstance(ledger.take("draw", "", (), None, each), Taken)
    first, second = (MarkSetting.read(value).at for field, value in ledger.marks["s-1"][0].items() if field[0] == "w")
    both = PAY._replace(opened=now, after=((("w:s:untrusted", "w:t/1:untrusted"),),))
    assert isinstance(ledger.take("draw", "", (), None, both._replace(shown=(((first,),),))), Stopped)
    assert isinstance(ledger.take("draw", "", (), None, both._replace(shown=(((first, second),),))), Taken)
