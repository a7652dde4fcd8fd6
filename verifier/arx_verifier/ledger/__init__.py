# SPDX-License-Identifier: Apache-2.0
"""Budgets: exact amounts, pools, and the ledger that keeps them.  SPEC 17."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.ledger.costs import CALLS, Cost, Costs
    from arx_verifier.ledger.leases import LeasedLedger, Slice
    from arx_verifier.ledger.memory import LedgerState, MemoryLedger
    from arx_verifier.ledger.pools import (
        BUSY,
        EARLY,
        LOST,
        NEW,
        PERIOD_MS,
        WAKING,
        Kind,
        Ledger,
        PoolDraw,
        Short,
        Taken,
        number_of,
        pool_id,
    )
    from arx_verifier.ledger.redis_ledger import COLUMNS, MOST_SHOWN, RedisLedger, show_pool
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "costs": "CALLS Cost Costs",
            "leases": "LeasedLedger Slice",
            "memory": "LedgerState MemoryLedger",
            "pools": "BUSY EARLY LOST NEW PERIOD_MS WAKING Kind Ledger PoolDraw Short Taken number_of pool_id",
            "redis_ledger": "COLUMNS MOST_SHOWN RedisLedger show_pool",
        },
    )

__all__ = [
    "BUSY",
    "CALLS",
    "COLUMNS",
    "EARLY",
    "LOST",
    "MOST_SHOWN",
    "NEW",
    "PERIOD_MS",
    "WAKING",
    "Cost",
    "Costs",
    "Kind",
    "LeasedLedger",
    "Ledger",
    "LedgerState",
    "MemoryLedger",
    "PoolDraw",
    "RedisLedger",
    "Short",
    "Slice",
    "Taken",
    "number_of",
    "pool_id",
    "show_pool",
]
