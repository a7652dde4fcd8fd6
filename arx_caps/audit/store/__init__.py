# SPDX-License-Identifier: Apache-2.0
"""The log's database, its index, and the publisher of signed checkpoints.  SPEC 17, 18."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.store.batch_queue import logged
    from arx_caps.audit.store.bulk import among, insert_rows
    from arx_caps.audit.store.log_store import LogStore
    from arx_caps.audit.store.nodes import HOLDER, LINK, MINT, SERVICE, SESSION, SUBTASK, TASK, Place, Step, place_of
    from arx_caps.audit.store.publisher import Publisher
    from arx_caps.audit.store.tables import (
        ALLOW,
        BATCH,
        CHECKPOINT,
        COUNTED,
        DENY,
        END,
        EVENT,
        GAP,
        MAX_CODE,
        MAX_NUMBER,
        NODE,
        PRUNED,
        RECORD,
        SOURCE,
        STATE,
        asked_by,
    )
    from arx_caps.audit.store.totals import Counted, newer, up_to_date
    from arx_caps.audit.store.transaction import RECORD_COLUMNS, Writing
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "batch_queue": "logged",
            "bulk": "among insert_rows",
            "log_store": "LogStore",
            "nodes": "HOLDER LINK MINT Place SERVICE SESSION SUBTASK Step TASK place_of",
            "publisher": "Publisher",
            "tables": (
                "ALLOW BATCH CHECKPOINT COUNTED DENY END EVENT GAP MAX_CODE MAX_NUMBER NODE PRUNED RECORD SOURCE "
                "STATE asked_by"
            ),
            "totals": "Counted newer up_to_date",
            "transaction": "RECORD_COLUMNS Writing",
        },
    )

__all__ = [
    "ALLOW",
    "BATCH",
    "CHECKPOINT",
    "COUNTED",
    "DENY",
    "END",
    "EVENT",
    "GAP",
    "HOLDER",
    "LINK",
    "MAX_CODE",
    "MAX_NUMBER",
    "MINT",
    "NODE",
    "PRUNED",
    "RECORD",
    "RECORD_COLUMNS",
    "SERVICE",
    "SESSION",
    "SOURCE",
    "STATE",
    "SUBTASK",
    "TASK",
    "Counted",
    "LogStore",
    "Place",
    "Publisher",
    "Step",
    "Writing",
    "among",
    "asked_by",
    "insert_rows",
    "logged",
    "newer",
    "place_of",
    "up_to_date",
]
