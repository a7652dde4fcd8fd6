# SPDX-License-Identifier: Apache-2.0
"""Log entries: decisions as verifiers sent them, and events of the mint and of the log itself.  SPEC 12, LOG 1.7, 2.

A decision is checked against its batch, and a body against the digest in its leaf.  Signatures of batches are in
``shipping.batch``.
"""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.audit.ingest.place import HOLDER, MINT, SERVICE, SESSION, TASK, PlaceStep, RecordPlace, asked_by, place_of
from arx_caps.audit.merkle.errors import DisputedError
from arx_caps.audit.shipping.batch import MAX_NUMBER, Batch
from arx_verifier.errors import AuditError, RequestError
from arx_verifier.journal.decision import COUNTED as COUNTED_CODE
from arx_verifier.journal.decision import GAP as GAP_CODE
from arx_verifier.journal.decision import OK
from arx_verifier.journal.record import EFFECT as EFFECT_CODE
from arx_verifier.journal.record import CallRecord, Facts, Rest, hold_members
from arx_verifier.token.targets import subject_target

# Numbers of a record's outcome in the database; those above ``ALLOW`` are in the partial indexes of ``store.tables``.
EVENT: Final = 0  # an event at the mint
ALLOW: Final = 1
DENY: Final = 2
END: Final = 3  # running work that was ended
COUNTED: Final = 4  # numbers of unauthenticated refusals
GAP: Final = 5  # missing records
WOULD_REFUSE: Final = 6  # a call that went on in watch mode although it would be refused
EFFECT: Final = 7  # what the answer of a call showed of its effect
MAX_CODE: Final = 64
EVENT_CODE: Final = "event"
EVENT_TAG: Final = "event"  # first member of an event's kept part, where a decision has its version
LOST: Final = "records.lost"
DISPUTED: Final = "records.disputed"
RECOVERED: Final = "log.recovered"
PRUNED_KIND: Final = "log.pruned"
_GAPS: Final = (LOST, DISPUTED, "kills.unread")
LOG: Final = "log"  # source of events about the log itself
_KEPT_CHAINS: Final = 4096


class LogEntry(NamedTuple):
    """A record to be appended.

    Attributes:
        sequence: Its number in its source.
        at_ms: Its time by the recorder's clock, ms since the Unix epoch.
        place: The node that it belongs to.
        outcome: An outcome number.
        code: ``ok``, a reason, ``counted``, ``gap``, or ``event``.
        tool: The tool in the form of the search column (``asked_by``); for an event, its kind.
        kept: The leaf.
        body: The erasable part.
    """

    sequence: int
    at_ms: int
    place: RecordPlace
    outcome: int
    code: str
    tool: str
    kept: bytes
    body: bytes | None


class EventRecord(NamedTuple):
    """An event in the log.

    Attributes:
        source: Its sequence's source: ``mint/<run>``, ``store/<history>``, ``<verifier>/<boot>``, or ``log``.
        number: Its number there; 0 for events about the log itself.
        at: Its time, ms since the Unix epoch.
        kind: The kind, such as ``session.opened``.
        by: The actor.
        named: Its objects, as names and values; no personal data.
        facts: All its facts; None once they were erased.
    """

    source: str
    number: int
    at: int
    kind: str
    by: str
    named: dict[str, Any]
    facts: dict[str, Any] | None


class Reader:
    """Parses batches, and caches the chains that it parsed.  Threads may share it."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, bytes, bytes], RecordPlace] = {}

    def read(self, batch: Batch) -> list[LogEntry]:
        """Return the entries of a batch.

        Raises:
            RequestError: A record is unreadable, has another body, or is of another verifier, run, place or audience.
        """
        sequence = batch.first
        try:
            # One loop without calls of our own for each record: no code of a mint runs more often.
            entries, places, of, run = [], self._places, batch.verifier, batch.boot
            for sequence, (kept, body) in enumerate(batch.records, batch.first):
                version, verifier, boot, number, raw_facts, call, digest = _KEPT.decode(kept)
                raw_person, rest = _BODY.decode(body)
                if sha256(body).digest() != digest:
                    raise RequestError(f"record {sequence}: the body's digest is not the one in the record")
                hold_members(version, call, rest)
                if kept[0] != _SEVEN:
                    raise AuditError("not a decision record: expected an array of seven")
                if number != sequence or verifier != of or boot != run:
                    raise RequestError(f"record {sequence} is of another verifier, run or place than its batch")
                if len(rest.details) != len(call.rules) or len(rest.peers) != len(call.counts):
                    raise AuditError("its rules and its body's details differ in number")
                code = call.code
                if abs(call.at) > MAX_NUMBER or len(code) > MAX_CODE or "\0" in code:
                    raise AuditError("its time is out of range, or its code is invalid")
                key = (batch.audience, bytes(raw_facts), bytes(raw_person))
                place = places.get(key) or self._learn(key, sequence)
                outcome = ALLOW if code == OK else outcome_of(call)
                entries.append(_entry((sequence, call.at, place, outcome, code, asked_by(call.tool), kept, body)))
        except _BAD as error:
            raise RequestError(f"record {sequence} cannot be read: {error}") from error
        return entries

    def _learn(self, key: tuple[str, bytes, bytes], sequence: int) -> RecordPlace:
        """Parse and cache the place of a chain's records."""
        # A service may only send records of its own.
        audience, facts, person = key[0], _FACTS.decode(key[1]), _PERSON.decode(key[2])
        if facts.audience not in ("", audience):
            raise RequestError(f"record {sequence} is of another service than its batch")
        if len(self._places) >= _KEPT_CHAINS:
            self._places.clear()
        place = self._places[key] = place_of(facts, person[0], audience)
        return place


def outcome_of(call: CallRecord) -> int:
    """Return a decision's outcome as a number."""
    if call.code == OK:
        return ALLOW
    if call.code == GAP_CODE:
        return GAP
    if call.code == COUNTED_CODE:
        return COUNTED
    if call.code == EFFECT_CODE:
        return EFFECT
    if call.watched:
        return WOULD_REFUSE
    return END if call.ends else DENY


def outcome_of_event(kind: str) -> int:
    """Return an event's outcome as a number: a gap if records are missing, else an event."""
    return GAP if kind in _GAPS else EVENT


def make_event(event: EventRecord, place: RecordPlace, outcome: int = EVENT) -> LogEntry:
    """Return the entry of an event.

    Args:
        event: The event; its ``facts`` become the erasable body.
        place: The node that it belongs to.
        outcome: An outcome number.
    """
    body = msgspec.msgpack.encode((secrets.token_bytes(16), msgspec.json.encode(event.facts, order="sorted")))
    head = (EVENT_TAG, event.source, event.number, event.at, event.kind, event.by)
    kept = msgspec.msgpack.encode((*head, sorted(event.named.items()), sha256(body).digest()))
    return LogEntry(event.number, event.at, place, outcome, EVENT_CODE, event.kind, kept, body)


def make_loss(batch: Batch, first: int, at_ms: int) -> LogEntry:
    """Return the entry for lost records of a run: from ``first`` to before those of ``batch``.

    Args:
        batch: The batch that declares the loss.
        first: Sequence of the first lost record.
        at_ms: Time of the entry, ms since the Unix epoch.
    """
    last = batch.first - 1
    named = {"verifier": batch.verifier, "boot": batch.boot, "audience": batch.audience, "first": first, "last": last}
    event = EventRecord(f"{batch.verifier}/{batch.boot}", last, at_ms, LOST, f"service:{batch.audience}", named, {})
    return make_event(event, RecordPlace((PlaceStep(SERVICE, batch.audience, batch.audience),)), GAP)


def make_dispute(batch: Batch, error: DisputedError, at_ms: int) -> LogEntry:
    """Return the entry for a run with two records at one sequence, with the refused leaf's hash.

    Args:
        batch: The refused batch.
        error: The refusal.
        at_ms: Time of the entry, ms since the Unix epoch.
    """
    named: dict[str, Any] = {"verifier": batch.verifier, "boot": batch.boot, "audience": batch.audience}
    named |= {"first": error.sequence, "leaf": error.leaf.hex()}
    event = EventRecord(LOG, 0, at_ms, DISPUTED, f"service:{batch.audience}", named, {})
    return make_event(event, RecordPlace((PlaceStep(SERVICE, batch.audience, batch.audience),)), GAP)


def make_note(kind: str, by: str, at_ms: int, named: Mapping[str, Any], facts: Mapping[str, Any]) -> LogEntry:
    """Return the entry for an operation on the log itself.

    Args:
        kind: The kind, such as ``log.pruned``.
        by: The actor.
        at_ms: Its time, ms since the Unix epoch.
        named: Its objects; no personal data.
        facts: All its facts.
    """
    place = RecordPlace((PlaceStep(MINT, "", "the mint"),))
    return make_event(EventRecord(LOG, 0, at_ms, kind, by, dict(named), dict(facts)), place)


def is_event(kept: bytes) -> bool:
    """Return whether a leaf is an event's, not a decision's."""
    return kept.startswith(_EVENT_START)


def read_event(kept: bytes, body: bytes | None) -> EventRecord:
    """Parse the record of an event.

    Args:
        kept: The leaf.
        body: Its body; None when that was erased.

    Raises:
        AuditError: It is malformed, or the body is another record's.
    """
    try:
        _, source, number, at, kind, by, named, digest = _EVENT.decode(kept)
        if body is None:
            return EventRecord(source, number, at, kind, by, dict(named), None)
        if sha256(body).digest() != digest:
            raise AuditError("the body's digest is not the one in the record")
        facts = msgspec.json.decode(_EVENT_BODY.decode(body)[1], type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditError(f"the record of an event cannot be read: {error}") from error
    return EventRecord(source, number, at, kind, by, dict(named), facts)


def place_of_event(by: str, facts: Mapping[str, Any]) -> RecordPlace:
    """Return the node of an event of the mint, derived from its facts.

    Args:
        by: The actor.
        facts: The event's facts.
    """
    agent, session, task = (str(facts.get(name) or "") for name in ("agent", "session", "task"))
    subject = facts.get("subject")
    target = subject if isinstance(subject, str) and subject.startswith("subject:") else None
    if isinstance(subject, (list, tuple)) and len(subject) == 2:
        target = subject_target(*subject)
    if session:
        agent = agent or (by.removeprefix("agent:") if by.startswith("agent:") else "")
        steps = [PlaceStep(SESSION, session, agent)] + ([PlaceStep(TASK, task, agent)] if task else [])
        return RecordPlace(tuple(steps), agent, target)
    operator = f"operator:{facts['operator']}" if facts.get("operator") else ""
    if agent or operator:
        return RecordPlace(
            (PlaceStep(HOLDER, operator or f"agent:{agent}", operator or agent),), operator or agent, target
        )
    audience = str(facts.get("audience") or "")
    step = PlaceStep(SERVICE, audience, audience) if audience else PlaceStep(MINT, "", "the mint")
    return RecordPlace((step,), subject=target)


_SEVEN: Final = 0x97  # first byte of a decision's kept part: a MessagePack array of seven
_entry: Final[Callable[[tuple[Any, ...]], LogEntry]] = partial(tuple.__new__, LogEntry)  # as LogEntry._make, unchecked
_BAD: Final = (msgspec.MsgspecError, UnicodeDecodeError, AuditError)
_KEPT: Final = msgspec.msgpack.Decoder(tuple[int, str, str, int, msgspec.Raw, CallRecord, bytes])
_BODY: Final = msgspec.msgpack.Decoder(tuple[msgspec.Raw, Rest])
_FACTS: Final = msgspec.msgpack.Decoder(Facts)
_PERSON: Final = msgspec.msgpack.Decoder(
    tuple[tuple[str, str] | None, tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...]]
)
_EVENT: Final = msgspec.msgpack.Decoder(tuple[str, str, int, int, str, str, list[tuple[str, Any]], bytes])
_EVENT_BODY: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes])
_EVENT_START: Final = b"\x98\xa5event"
