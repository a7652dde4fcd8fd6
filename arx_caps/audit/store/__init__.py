# SPDX-License-Identifier: Apache-2.0
"""The log's database, its index, and the publisher of signed checkpoints.  LOG 1, 2."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.store.batch_queue import logged
    from arx_caps.audit.store.bulk import among, insert_rows
    from arx_caps.audit.store.log_store import LogStore
    from arx_caps.audit.store.publisher import Publisher
    from arx_caps.audit.store.tables import BATCH, CHECKPOINT, NODE, PRUNED, RECORD, SOURCE, STATE, TOTAL
    from arx_caps.audit.store.time_totals import DAY, HOUR, KINDS, MINUTE, SPANS_MS, add_times, rebuild, span_at
    from arx_caps.audit.store.totals import Counted, newer, up_to_date
    from arx_caps.audit.store.transaction import RECORD_COLUMNS, Writing
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "batch_queue": "logged",
            "bulk": "among insert_rows",
            "log_store": "LogStore",
            "publisher": "Publisher",
            "tables": "BATCH CHECKPOINT NODE PRUNED RECORD SOURCE STATE TOTAL",
            "time_totals": "DAY HOUR KINDS MINUTE SPANS_MS add_times rebuild span_at",
            "totals": "Counted newer up_to_date",
            "transaction": "RECORD_COLUMNS Writing",
        },
    )

__all__ = [
    "BATCH",
    "CHECKPOINT",
    "DAY",
    "HOUR",
    "KINDS",
    "MINUTE",
    "NODE",
    "PRUNED",
    "RECORD",
    "RECORD_COLUMNS",
    "SOURCE",
    "SPANS_MS",
    "STATE",
    "TOTAL",
    "Counted",
    "LogStore",
    "Publisher",
    "Writing",
    "add_times",
    "among",
    "insert_rows",
    "logged",
    "newer",
    "rebuild",
    "span_at",
    "up_to_date",
]
