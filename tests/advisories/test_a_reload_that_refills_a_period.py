# SPDX-License-Identifier: Apache-2.0
"""A pool per hour was full twice in one hour, if the reload of a ledger's functions took longer than a minute.

The ledger began anew before the pools had their new names.  A minute later the next hour's calls drew on a new pool,
and the pool of the hour before then took its place.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import LOST, PERIOD_MS, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import header_of, new_ledger

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

HOUR_MS = PERIOD_MS["hour"]
POOL = "t/-/p/usd/hour"


class SlowMover(redis.Redis):
    """A client of the server that does something else before it renames a key."""

    before: Callable[[], None]

    def rename(self, src: Any, dst: Any, **more: Any) -> Any:
        """Rename a key, later."""
        self.before()
        return super().rename(src, dst, **more)


def test_calls_that_draw_while_pools_get_their_new_names(own_valkey: EmbeddedValkey) -> None:
    """What they drew is not given again in this hour: the ledger begins anew once the last pool has its name."""
    hour = now_ms() // HOUR_MS
    draw = PoolDraw(POOL, 100, HOUR_MS, (hour - 1) * HOUR_MS, 60, 60)
    with (
        closing(new_ledger(own_valkey.url, "acme", hides=True)) as mint,
        closing(RedisLedger(own_valkey.url, "acme", timeout_s=30)) as service,
        redis.Redis.from_url(own_valkey.url) as root,
    ):
        mint.start()
        header = header_of(root)
        root.hset(header, "since", (hour - 2) * HOUR_MS)
        assert isinstance(service.take("draw", "", [draw]), Taken)
        root.hset(f"{header[:-1]}p:{POOL}", "p", hour - 1)  # as if an hour was over since

        def a_minute_later() -> None:
            mint._look()
            service.take("draw", "", [draw])
            root.hset(header_of(root), "since", (hour - 1) * HOUR_MS)
            assert isinstance(service.take("draw", "", [draw]), Taken)

        mover = SlowMover.from_url(own_valkey.url)
        mover.before = a_minute_later
        with closing(RedisLedger(own_valkey.url, "acme", timeout_s=30)) as operator:
            operator._client.redis = mover
            operator.reload()
        mint._look()
        answer = service.take("draw", "", [draw])
        assert isinstance(answer, Short)
        assert answer.remaining == LOST
