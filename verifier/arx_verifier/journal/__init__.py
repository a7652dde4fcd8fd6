# SPDX-License-Identifier: Apache-2.0
"""Decisions, and the local record of them.  SPEC 12, 15.3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.journal.decision import (
        COUNTED,
        GAP,
        NO_RECORD,
        OK,
        UNPROVEN,
        Decision,
        DecisionSink,
        InMemoryDecisions,
        decision_id,
        unpack_record,
    )
    from arx_verifier.journal.quota import ALARMS, used_in
    from arx_verifier.journal.reader import Damage, SegmentReader, is_written, read_journal
    from arx_verifier.journal.record import (
        RECORD_VERSION,
        CallRecord,
        ChainFacts,
        Facts,
        ProvenHolder,
        Rest,
        Sealed,
        SignedCall,
        digest_arguments,
        form_of,
        keep_arguments,
        new_salt,
        read_sealed,
        seal,
    )
    from arx_verifier.journal.segment import HEADER_BYTES, SegmentHeader, files_in, is_last, read_header
    from arx_verifier.journal.writer import (
        DROPPED,
        LOST,
        MAX_BYTES,
        MIN_SEGMENT_BYTES,
        SEGMENT_BYTES,
        Journal,
        apart,
        audience_of,
        name_verifier,
        writers,
    )
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "decision": (
                "COUNTED Decision DecisionSink GAP InMemoryDecisions NO_RECORD OK UNPROVEN decision_id unpack_record"
            ),
            "quota": "ALARMS used_in",
            "reader": "Damage SegmentReader is_written read_journal",
            "record": (
                "CallRecord ChainFacts Facts ProvenHolder RECORD_VERSION Rest Sealed SignedCall digest_arguments "
                "form_of keep_arguments new_salt read_sealed seal"
            ),
            "segment": "HEADER_BYTES SegmentHeader files_in is_last read_header",
            "writer": (
                "DROPPED Journal LOST MAX_BYTES MIN_SEGMENT_BYTES SEGMENT_BYTES apart audience_of name_verifier writers"
            ),
        },
    )

__all__ = [
    "ALARMS",
    "COUNTED",
    "DROPPED",
    "GAP",
    "HEADER_BYTES",
    "LOST",
    "MAX_BYTES",
    "MIN_SEGMENT_BYTES",
    "NO_RECORD",
    "OK",
    "RECORD_VERSION",
    "SEGMENT_BYTES",
    "UNPROVEN",
    "CallRecord",
    "ChainFacts",
    "Damage",
    "Decision",
    "DecisionSink",
    "Facts",
    "InMemoryDecisions",
    "Journal",
    "ProvenHolder",
    "Rest",
    "Sealed",
    "SegmentHeader",
    "SegmentReader",
    "SignedCall",
    "apart",
    "audience_of",
    "decision_id",
    "digest_arguments",
    "files_in",
    "form_of",
    "is_last",
    "is_written",
    "keep_arguments",
    "name_verifier",
    "new_salt",
    "read_header",
    "read_journal",
    "read_sealed",
    "seal",
    "unpack_record",
    "used_in",
    "writers",
]
