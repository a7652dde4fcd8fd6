# SPDX-License-Identifier: Apache-2.0
"""Ship a verifier's journal to the mint in signed batches, and detect a forked log.  LOG 2."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.shipping.batch import (
        MAX_NUMBER,
        Batch,
        LogWord,
        Statement,
        hold_statement,
        open_statement,
        read_statement,
    )
    from arx_caps.audit.shipping.journal_runs import JournalRuns
    from arx_caps.audit.shipping.shipper import Shipper, ShippingStatus
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "batch": "Batch LogWord MAX_NUMBER Statement hold_statement open_statement read_statement",
            "journal_runs": "JournalRuns",
            "shipper": "Shipper ShippingStatus",
        },
    )

__all__ = [
    "MAX_NUMBER",
    "Batch",
    "JournalRuns",
    "LogWord",
    "Shipper",
    "ShippingStatus",
    "Statement",
    "hold_statement",
    "open_statement",
    "read_statement",
]
