# SPDX-License-Identifier: Apache-2.0
"""What the mint does with a batch before the database: parse entries, order uploads, count records.  LOG 2.3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.ingest.counts import Counts as Counts
    from arx_caps.audit.ingest.entries import ALLOW as ALLOW
    from arx_caps.audit.ingest.entries import COUNTED as COUNTED
    from arx_caps.audit.ingest.entries import DENY as DENY
    from arx_caps.audit.ingest.entries import DISPUTED as DISPUTED
    from arx_caps.audit.ingest.entries import EFFECT as EFFECT
    from arx_caps.audit.ingest.entries import END as END
    from arx_caps.audit.ingest.entries import EVENT as EVENT
    from arx_caps.audit.ingest.entries import EVENT_CODE as EVENT_CODE
    from arx_caps.audit.ingest.entries import GAP as GAP
    from arx_caps.audit.ingest.entries import LOG as LOG
    from arx_caps.audit.ingest.entries import LOST as LOST
    from arx_caps.audit.ingest.entries import MAX_CODE as MAX_CODE
    from arx_caps.audit.ingest.entries import PRUNED_KIND as PRUNED_KIND
    from arx_caps.audit.ingest.entries import RECOVERED as RECOVERED
    from arx_caps.audit.ingest.entries import WOULD_REFUSE as WOULD_REFUSE
    from arx_caps.audit.ingest.entries import EventRecord as EventRecord
    from arx_caps.audit.ingest.entries import LogEntry as LogEntry
    from arx_caps.audit.ingest.entries import Reader as Reader
    from arx_caps.audit.ingest.entries import is_event as is_event
    from arx_caps.audit.ingest.entries import make_dispute as make_dispute
    from arx_caps.audit.ingest.entries import make_event as make_event
    from arx_caps.audit.ingest.entries import make_loss as make_loss
    from arx_caps.audit.ingest.entries import make_note as make_note
    from arx_caps.audit.ingest.entries import outcome_of as outcome_of
    from arx_caps.audit.ingest.entries import outcome_of_event as outcome_of_event
    from arx_caps.audit.ingest.entries import place_of_event as place_of_event
    from arx_caps.audit.ingest.entries import read_event as read_event
    from arx_caps.audit.ingest.place import LINK as LINK
    from arx_caps.audit.ingest.place import MINT as MINT
    from arx_caps.audit.ingest.place import SERVICE as SERVICE
    from arx_caps.audit.ingest.place import SESSION as SESSION
    from arx_caps.audit.ingest.place import SUBTASK as SUBTASK
    from arx_caps.audit.ingest.place import TASK as TASK
    from arx_caps.audit.ingest.place import PlaceStep as PlaceStep
    from arx_caps.audit.ingest.place import RecordPlace as RecordPlace
    from arx_caps.audit.ingest.place import asked_by as asked_by
    from arx_caps.audit.ingest.place import place_of as place_of
    from arx_caps.audit.ingest.upload_order import Turns as Turns
    from arx_caps.audit.ingest.upload_order import run_of as run_of
else:
    open_door(__name__)
