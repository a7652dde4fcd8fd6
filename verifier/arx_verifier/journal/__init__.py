# SPDX-License-Identifier: Apache-2.0
"""Decisions, and the local record of them.  SPEC 12, 15.3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.journal.decision import COUNTED as COUNTED
    from arx_verifier.journal.decision import GAP as GAP
    from arx_verifier.journal.decision import NO_RECORD as NO_RECORD
    from arx_verifier.journal.decision import OK as OK
    from arx_verifier.journal.decision import UNPROVEN as UNPROVEN
    from arx_verifier.journal.decision import WOULD_REFUSE as WOULD_REFUSE
    from arx_verifier.journal.decision import Decision as Decision
    from arx_verifier.journal.decision import DecisionSink as DecisionSink
    from arx_verifier.journal.decision import InMemoryDecisions as InMemoryDecisions
    from arx_verifier.journal.decision import decision_id as decision_id
    from arx_verifier.journal.decision import unpack_record as unpack_record
    from arx_verifier.journal.liveness import is_written as is_written
    from arx_verifier.journal.quota import ALARMS as ALARMS
    from arx_verifier.journal.quota import used_in as used_in
    from arx_verifier.journal.reader import Damage as Damage
    from arx_verifier.journal.reader import SegmentReader as SegmentReader
    from arx_verifier.journal.reader import read_journal as read_journal
    from arx_verifier.journal.record import AWAITED as AWAITED
    from arx_verifier.journal.record import EFFECT as EFFECT
    from arx_verifier.journal.record import EFFECT_VERSION as EFFECT_VERSION
    from arx_verifier.journal.record import RECORD_VERSION as RECORD_VERSION
    from arx_verifier.journal.record import WATCH_VERSION as WATCH_VERSION
    from arx_verifier.journal.record import CallRecord as CallRecord
    from arx_verifier.journal.record import ChainFacts as ChainFacts
    from arx_verifier.journal.record import EffectRecord as EffectRecord
    from arx_verifier.journal.record import Facts as Facts
    from arx_verifier.journal.record import ProvenHolder as ProvenHolder
    from arx_verifier.journal.record import Rest as Rest
    from arx_verifier.journal.record import Sealed as Sealed
    from arx_verifier.journal.record import SignedCall as SignedCall
    from arx_verifier.journal.record import digest_arguments as digest_arguments
    from arx_verifier.journal.record import form_of as form_of
    from arx_verifier.journal.record import hold_members as hold_members
    from arx_verifier.journal.record import keep_arguments as keep_arguments
    from arx_verifier.journal.record import new_salt as new_salt
    from arx_verifier.journal.record import read_sealed as read_sealed
    from arx_verifier.journal.record import seal as seal
    from arx_verifier.journal.segment import HEADER_BYTES as HEADER_BYTES
    from arx_verifier.journal.segment import SegmentHeader as SegmentHeader
    from arx_verifier.journal.segment import files_in as files_in
    from arx_verifier.journal.segment import is_last as is_last
    from arx_verifier.journal.segment import read_header as read_header
    from arx_verifier.journal.writer import DROPPED as DROPPED
    from arx_verifier.journal.writer import LOST as LOST
    from arx_verifier.journal.writer import MAX_BYTES as MAX_BYTES
    from arx_verifier.journal.writer import MIN_SEGMENT_BYTES as MIN_SEGMENT_BYTES
    from arx_verifier.journal.writer import SEGMENT_BYTES as SEGMENT_BYTES
    from arx_verifier.journal.writer import Journal as Journal
    from arx_verifier.journal.writer import apart as apart
    from arx_verifier.journal.writer import audience_of as audience_of
    from arx_verifier.journal.writer import name_verifier as name_verifier
    from arx_verifier.journal.writer import writers as writers
else:
    open_door(__name__)
