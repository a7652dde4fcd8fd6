# SPDX-License-Identifier: Apache-2.0
"""Budgets: exact amounts, pools, and the ledger that keeps them.  SPEC 17."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.ledger.costs import Cost as Cost
    from arx_verifier.ledger.costs import Costs as Costs
    from arx_verifier.ledger.leases import LeasedLedger as LeasedLedger
    from arx_verifier.ledger.leases import Slice as Slice
    from arx_verifier.ledger.memory import MemoryLedger as MemoryLedger
    from arx_verifier.ledger.pools import BUSY as BUSY
    from arx_verifier.ledger.pools import EARLY as EARLY
    from arx_verifier.ledger.pools import LOST as LOST
    from arx_verifier.ledger.pools import NEW as NEW
    from arx_verifier.ledger.pools import PERIOD_MS as PERIOD_MS
    from arx_verifier.ledger.pools import USED as USED
    from arx_verifier.ledger.pools import WAKING as WAKING
    from arx_verifier.ledger.pools import Kind as Kind
    from arx_verifier.ledger.pools import Ledger as Ledger
    from arx_verifier.ledger.pools import PoolDraw as PoolDraw
    from arx_verifier.ledger.pools import Short as Short
    from arx_verifier.ledger.pools import Taken as Taken
    from arx_verifier.ledger.pools import UsedKey as UsedKey
    from arx_verifier.ledger.pools import number_of as number_of
    from arx_verifier.ledger.pools import pool_id as pool_id
    from arx_verifier.ledger.redis_ledger import COLUMNS as COLUMNS
    from arx_verifier.ledger.redis_ledger import MOST_SHOWN as MOST_SHOWN
    from arx_verifier.ledger.redis_ledger import RedisLedger as RedisLedger
    from arx_verifier.ledger.redis_ledger import show_pool as show_pool
else:
    open_door(__name__)
