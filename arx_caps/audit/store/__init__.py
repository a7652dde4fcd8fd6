# SPDX-License-Identifier: Apache-2.0
"""The log's database, its index, and the publisher of signed checkpoints.  LOG 1, 2."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.store.batch_queue import logged as logged
    from arx_caps.audit.store.bulk import among as among
    from arx_caps.audit.store.bulk import insert_rows as insert_rows
    from arx_caps.audit.store.log_store import LogStore as LogStore
    from arx_caps.audit.store.log_store import create_tables as create_tables
    from arx_caps.audit.store.publisher import Publisher as Publisher
    from arx_caps.audit.store.tables import BATCH as BATCH
    from arx_caps.audit.store.tables import CHECKPOINT as CHECKPOINT
    from arx_caps.audit.store.tables import META as META
    from arx_caps.audit.store.tables import METADATA as METADATA
    from arx_caps.audit.store.tables import NODE as NODE
    from arx_caps.audit.store.tables import PRUNED as PRUNED
    from arx_caps.audit.store.tables import RECORD as RECORD
    from arx_caps.audit.store.tables import SCHEMA as SCHEMA
    from arx_caps.audit.store.tables import SOURCE as SOURCE
    from arx_caps.audit.store.tables import STATE as STATE
    from arx_caps.audit.store.tables import TOTAL as TOTAL
    from arx_caps.audit.store.time_totals import DAY as DAY
    from arx_caps.audit.store.time_totals import HOUR as HOUR
    from arx_caps.audit.store.time_totals import KINDS as KINDS
    from arx_caps.audit.store.time_totals import MINUTE as MINUTE
    from arx_caps.audit.store.time_totals import SPANS_MS as SPANS_MS
    from arx_caps.audit.store.time_totals import add_times as add_times
    from arx_caps.audit.store.time_totals import rebuild as rebuild
    from arx_caps.audit.store.time_totals import span_at as span_at
    from arx_caps.audit.store.totals import Counted as Counted
    from arx_caps.audit.store.totals import newer as newer
    from arx_caps.audit.store.totals import up_to_date as up_to_date
    from arx_caps.audit.store.transaction import RECORD_COLUMNS as RECORD_COLUMNS
    from arx_caps.audit.store.transaction import Writing as Writing
else:
    open_door(__name__)
