# SPDX-License-Identifier: Apache-2.0
"""While an old server of the ledger still answered, a mail was sent after a page was read.

The new server set the warning, and the old one, which did not have it, allowed the send.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import WAKING, MarkQuestion, Short, Stopped, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import look, new_ledger, only_bucket

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.5")]


def test_no_warning_is_set_before_the_old_server_has_stopped(tmp_path: Path) -> None:
    """Another server has taken over: it refuses what sets a warning, until no server before it can answer."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with EmbeddedValkey(tmp_path / "old") as old, EmbeddedValkey(tmp_path / "new") as new:
        first, second = new_ledger(old.url, "acme"), RedisLedger(new.url, "acme", timeout_s=30)
        first.start()
        while now_ms() <= look(first)[1]:
            pass  # a session of the same millisecond counts as lost
        second.start()
        at = now_ms()
        asked = MarkQuestion("s-1", at, at, "web.get web")
        sending = asked._replace(after=((("w:s:untrusted",),),))
        reading = asked._replace(sets=("w:s:untrusted",))
        assert isinstance(first.take("draw", "", (), None, sending), Taken)
        refused = second.take("draw", "", (), None, reading)
        assert isinstance(refused, Short)
        assert refused.remaining == WAKING
        assert refused.wait_ms > 0
        assert isinstance(second.take("draw", "", (), None, sending), Stopped)
        proving = asked._replace(sets=("p:s:tested",))
        assert isinstance(second.take("draw", "", (), None, proving), Taken)
        second._read(only_bucket(second), lambda server, at: server.hset(at.header, "since", now_ms() - 1))
        assert isinstance(second.take("draw", "", (), None, reading), Taken)
        first.close()
        second.close()
