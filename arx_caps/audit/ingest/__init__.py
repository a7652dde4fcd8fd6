# SPDX-License-Identifier: Apache-2.0
"""What the mint does with a batch before the database: parse entries, order uploads, count records.  SPEC 18.3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.ingest.counts import Counts
    from arx_caps.audit.ingest.entries import (
        EVENT_CODE,
        LOG,
        LOST,
        PRUNED_KIND,
        RECOVERED,
        Entry,
        EventRecord,
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
    from arx_caps.audit.ingest.upload_order import Turns, run_of
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "counts": "Counts",
            "entries": (
                "EVENT_CODE Entry EventRecord LOG LOST PRUNED_KIND RECOVERED Reader is_event make_dispute "
                "make_event make_loss make_note outcome_of outcome_of_event place_of_event read_event"
            ),
            "upload_order": "Turns run_of",
        },
    )

__all__ = [
    "EVENT_CODE",
    "LOG",
    "LOST",
    "PRUNED_KIND",
    "RECOVERED",
    "Counts",
    "Entry",
    "EventRecord",
    "Reader",
    "Turns",
    "is_event",
    "make_dispute",
    "make_event",
    "make_loss",
    "make_note",
    "outcome_of",
    "outcome_of_event",
    "place_of_event",
    "read_event",
    "run_of",
]
