# SPDX-License-Identifier: Apache-2.0
"""What the mint does with a batch before the database: parse entries, order uploads, count records.  LOG 2.3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.ingest.counts import Counts
    from arx_caps.audit.ingest.entries import (
        ALLOW,
        COUNTED,
        DENY,
        DISPUTED,
        END,
        EVENT,
        EVENT_CODE,
        GAP,
        LOG,
        LOST,
        MAX_CODE,
        PRUNED_KIND,
        RECOVERED,
        EventRecord,
        LogEntry,
        Reader,
        is_event,
        make_dispute,
        make_event,
        make_loss,
        make_note,
        outcome_of,
        outcome_of_event,
        place_of_event,
        read_event,
    )
    from arx_caps.audit.ingest.place import (
        LINK,
        MINT,
        SERVICE,
        SESSION,
        SUBTASK,
        TASK,
        PlaceStep,
        RecordPlace,
        asked_by,
        place_of,
    )
    from arx_caps.audit.ingest.upload_order import Turns, run_of
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "counts": "Counts",
            "entries": (
                "ALLOW COUNTED DENY DISPUTED END EVENT EVENT_CODE LogEntry EventRecord GAP LOG LOST MAX_CODE "
                "PRUNED_KIND RECOVERED Reader is_event make_dispute make_event make_loss make_note outcome_of "
                "outcome_of_event place_of_event read_event"
            ),
            "place": "LINK MINT RecordPlace SERVICE SESSION SUBTASK PlaceStep TASK asked_by place_of",
            "upload_order": "Turns run_of",
        },
    )

__all__ = [
    "ALLOW",
    "COUNTED",
    "DENY",
    "DISPUTED",
    "END",
    "EVENT",
    "EVENT_CODE",
    "GAP",
    "LINK",
    "LOG",
    "LOST",
    "MAX_CODE",
    "MINT",
    "PRUNED_KIND",
    "RECOVERED",
    "SERVICE",
    "SESSION",
    "SUBTASK",
    "TASK",
    "Counts",
    "EventRecord",
    "LogEntry",
    "PlaceStep",
    "Reader",
    "RecordPlace",
    "Turns",
    "asked_by",
    "is_event",
    "make_dispute",
    "make_event",
    "make_loss",
    "make_note",
    "outcome_of",
    "outcome_of_event",
    "place_of",
    "place_of_event",
    "read_event",
    "run_of",
]
