# SPDX-License-Identifier: Apache-2.0
"""Ship a verifier's journal to the mint in signed batches, and detect a forked log.  LOG 2."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.shipping.batch import MAX_NUMBER as MAX_NUMBER
    from arx_caps.audit.shipping.batch import Batch as Batch
    from arx_caps.audit.shipping.batch import LogWord as LogWord
    from arx_caps.audit.shipping.batch import Statement as Statement
    from arx_caps.audit.shipping.batch import hold_statement as hold_statement
    from arx_caps.audit.shipping.batch import open_statement as open_statement
    from arx_caps.audit.shipping.batch import read_statement as read_statement
    from arx_caps.audit.shipping.journal_runs import JournalRuns as JournalRuns
    from arx_caps.audit.shipping.shipper import Shipper as Shipper
    from arx_caps.audit.shipping.shipper import ShippingStatus as ShippingStatus
else:
    open_door(__name__)
