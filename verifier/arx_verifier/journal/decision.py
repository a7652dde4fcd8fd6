# SPDX-License-Identifier: Apache-2.0
"""One decision and its facts, and the sinks that keep decisions.  SPEC 12.

``record`` defines the bytes, ``writer`` is the journal.  No token, key or signature is ever part of a decision.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, Self

import msgspec

from arx_verifier.clock import now_ms
from arx_verifier.errors import AuditError, Failure
from arx_verifier.journal.record import (
    EFFECT,
    MAX_FACTS_BYTES,
    MAX_RECORD_BYTES,
    RECORD_VERSION,
    ChainFacts,
    CredentialRecord,
    EffectRecord,
    Gap,
    OpenedRecord,
    Rest,
    SignedCall,
    encode,
    new_salt,
    read_payload,
    read_sealed,
    version_of,
)
from arx_verifier.journal.tally import RefusalCount, Tally

_CALL_BYTES: Final = 4 * 1024  # the texts of a longer call are cut
_TEXT_CHARS: Final = 128
_FAILURES: Final = 8

OK: Final = "ok"
COUNTED: Final = "counted"
GAP: Final = "gap"
WOULD_REFUSE: Final = "would_refuse"  # the outcome of a call that went on in watch mode
NO_RECORD: Final = -1  # for ``ends``: the ended decision has no record of its own


class Decision(msgspec.Struct):
    """One decision, allowed or refused.

    Attributes:
        code: ``ok``, a code of ``REASONS``, ``counted`` for a record of counts, ``gap`` for one of missing records,
            ``effect`` for one of an effect.
        at: Its time, ms since the Unix epoch.
        facts: The facts of the authentic chain; their members are attributes of the decision as well.
        tool: The requested tool.
        args_digest: SHA-256 over ``salt`` and the arguments; empty without arguments in JSON.
        salt: 16 random bytes of this decision; once erased, the digest cannot be guessed.
        incarnation: Incarnation of the epoch view.
        applied: The sequence that the view had applied.
        age_ms: The age of the view, ms; -1 without one.
        failures: The conditions that did not hold; for refused arguments only the first.  See ``all_failures``.
        peer: Network address of the caller, or None.
        request_id: The request's id in its own protocol, such as an MCP request's, or None.
        traceparent: The caller's trace context (W3C), or None.
        arguments: The arguments' JSON if the operator has it recorded; empty if it was too long; else None.
        ends: Sequence of the decision whose running work this one ended, ``NO_RECORD`` if it has none; else 0.
        counts: For ``counted``: the refusals without records of their own.
        gap: For ``gap``: the missing records.
        signed: The evidence of an allowed call that its holder signed, or None.
        watched: Whether the call went on in watch mode although it would be refused; of ``counted``, whether those
            calls did.
        group: Of a watched call without a proven token: what the operator groups such callers by, or None.
        effect: What is known of the effect, of a call whose effect is recorded and of the record of it; else None.
        external_id: The name that the tool itself gave to the effect, or None.
        credential: Of the record of an effect: the person's credential that the call had, or None.
        account: The account of that credential, or None.
        marks: The names of the marks that the call has set; of the record of an effect, those after the decision.
        box: What the caller states of the box that it runs in: ``none``, ``bubblewrap``, or None if it states nothing.
        erased: Whether the body was erased: salt, subject, peer, given values and the like.
        sequence: Sequence in its journal, from 1; 0 while not recorded.
        verifier: The verifier whose journal holds it.
        boot: The run of that verifier.
        grant: The grant of an allowed call; never recorded.
        untold: Returns all failures; never recorded.
        watch: The watched call that goes on; never recorded.
    """

    code: str
    at: int
    facts: ChainFacts
    tool: str = ""
    args_digest: bytes = b""
    salt: bytes = b""
    incarnation: str = ""
    applied: int = 0
    age_ms: int = -1
    failures: tuple[Failure, ...] = ()
    peer: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    arguments: bytes | None = None
    ends: int = 0
    counts: tuple[RefusalCount, ...] = ()
    gap: Gap | None = None
    signed: SignedCall | None = None
    watched: bool = False
    group: str | None = None
    effect: EffectRecord | None = None
    external_id: str | None = None
    credential: CredentialRecord | None = None
    account: str | None = None
    marks: tuple[str, ...] = ()
    box: str | None = None
    erased: bool = False
    sequence: int = 0
    verifier: str = ""
    boot: str = ""
    grant: Any = None
    untold: Any = None
    watch: Any = None

    def all_failures(self) -> tuple[Failure, ...]:
        """Return all conditions that did not hold; for a decision read from a record, the recorded ones."""
        return self.failures if self.untold is None else tuple(self.untold())

    @property
    def allowed(self) -> bool:
        """Whether the call may go ahead."""
        return self.code == OK

    @property
    def outcome(self) -> str:
        """``allow``, ``deny``, ``would_refuse``, ``end`` for running work that was ended, and the codes without one."""
        if self.code in _OUTCOMES:
            return _OUTCOMES[self.code]
        if self.watched:
            return WOULD_REFUSE
        return "end" if self.ends else "deny"

    @property
    def id(self) -> str:
        """A name for people and tickets; empty while not recorded singly."""
        return decision_id(self.boot, self.sequence)

    agent = property(lambda self: self.facts.agent)
    session = property(lambda self: self.facts.session)
    named = property(lambda self: self.facts.named)
    links = property(lambda self: self.facts.links)
    task = property(lambda self: self.facts.task)
    tasks = property(lambda self: self.facts.tasks)
    token = property(lambda self: self.facts.token)
    subject = property(lambda self: self.facts.subject)
    audience = property(lambda self: self.facts.audience)
    policy = property(lambda self: self.facts.policy)
    kid = property(lambda self: self.facts.kid)
    assurance = property(lambda self: self.facts.assurance)
    model = property(lambda self: self.facts.model)

    def pack(self) -> bytes:
        """Return the decision's bytes in a journal; set a salt if it has none.

        Returns:
            One MessagePack array, at most ``MAX_RECORD_BYTES`` long, from which ``record.seal`` makes the record.

        Raises:
            AuditError: The chain's facts are longer than any token allows, or the arguments than any record.
        """
        # Arguments are often few and known: without a salt their digest could be found by trying them all.
        if not self.salt:
            self.salt = new_salt()
        call = encode(_call(self))
        if len(call) > _CALL_BYTES:
            if len(call) > _CALL_BYTES + len(self.arguments or b""):
                call = encode(_call(_shortened(self)))
            if len(call) > MAX_RECORD_BYTES - MAX_FACTS_BYTES:
                raise AuditError(f"a call of {len(call)} bytes cannot be recorded")
        packed, version = self.facts.packed, version_of(self.marks, self.box, self.effect, watched=self.watched)
        return (packed if version == RECORD_VERSION else packed[:1] + bytes((version,)) + packed[2:]) + call

    @classmethod
    def of(cls, opened: OpenedRecord) -> Self:
        """Return the decision of a record.

        Args:
            opened: The parsed record.

        Raises:
            AuditError: The record and its body differ in number of rules or counts.
        """
        call, rest = opened.call, opened.rest or _ERASED
        details = rest.details if opened.rest else ((_GONE, _GONE),) * len(call.rules)
        peers = rest.peers if opened.rest else (_GONE,) * len(call.counts)
        if len(details) != len(call.rules) or len(peers) != len(call.counts):
            raise AuditError("a decision record and its body differ in number of rules or counts")
        values: dict[str, Any] = msgspec.structs.asdict(rest) | msgspec.structs.asdict(call)
        for member in ("rules", "details", "peers"):
            del values[member]
        values["failures"] = tuple(Failure(*rule, *detail) for rule, detail in zip(call.rules, details, strict=True))
        values["counts"] = tuple(
            RefusalCount(code, peer, times) for (code, times), peer in zip(call.counts, peers, strict=True)
        )
        values |= {"verifier": opened.verifier, "boot": opened.boot, "sequence": opened.sequence}
        return cls(facts=opened.facts, erased=opened.rest is None, **values)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON values: bytes in hex, one level, no secrets."""
        values = {"id": self.id, "outcome": self.outcome, **msgspec.structs.asdict(self)}
        unused: tuple[str, ...] = () if self.watched else ("watched", "group")
        unused += ("effect", "external_id") if self.effect is None else ()
        unused += () if self.marks else ("marks",)
        unused += ("box",) if self.box is None else ()
        for member in ("facts", "grant", "untold", "watch", "credential", "account", *unused):
            del values[member]
        if self.effect is not None:
            values["effect"] = {**self.effect._asdict(), "digest": self.effect.digest.hex()}
        if self.credential is not None:
            values["credential"] = {**self.credential._asdict(), "account": self.account}
        values |= msgspec.structs.asdict(self.facts)
        values |= {"args_digest": self.args_digest.hex(), "salt": self.salt.hex()}
        values["failures"] = [failure._asdict() for failure in self.failures]
        values["counts"] = [counted._asdict() for counted in self.counts]
        values["gap"] = self.gap._asdict() if self.gap else None
        values["signed"] = {name: part.hex() for name, part in self.signed._asdict().items()} if self.signed else None
        values["meta"] = dict(self.facts.meta)
        values["holders"] = [
            {"key": holder.key, "said": holder.said.hex(), "signature": holder.signature.hex()}
            for holder in self.facts.holders
        ]
        subject = self.facts.subject
        values["subject"] = {"issuer": subject[0], "subject": subject[1]} if subject else None
        if self.arguments is not None:
            values["arguments"] = self.arguments.decode("utf-8", "replace")
        return values


def _call(decision: Decision) -> tuple[Any, ...]:
    """Return the fields of ``Call`` and of ``Rest`` in order; tuples cost less than structs and encode alike."""
    failures, counts = decision.failures, decision.counts
    rules = details = _NONE
    if failures:
        rules, details = (failures[0][:2],), (failures[0][2:],)
        if len(failures) > 1:  # rarely: it takes twice as long
            rules, details = tuple([failure[:2] for failure in failures]), tuple([failure[2:] for failure in failures])
    call: tuple[Any, ...] = (
        decision.at,
        decision.code,
        decision.tool,
        decision.args_digest,
        decision.incarnation,
        decision.applied,
        decision.age_ms,
        rules,
        decision.ends,
        tuple([(counted.code, counted.times) for counted in counts]) if counts else (),
        decision.gap,
    )
    rest: tuple[Any, ...] = (
        decision.salt,
        details,
        decision.peer,
        decision.request_id,
        decision.traceparent,
        tuple([counted.peer for counted in counts]) if counts else (),
        decision.arguments,
    )
    # How many of the last members of ``Call`` are written; ``Rest`` has one less.  SPEC 12.3
    last = 6 if decision.box is not None else 5 if decision.marks else 4 if decision.credential is not None else 0
    last = last or (3 if decision.effect is not None else 2 if decision.watched else int(decision.signed is not None))
    if last:
        more = (decision.signed, decision.watched, decision.effect, decision.credential, decision.marks, decision.box)
        call += more[:last]
        rest += (decision.group, decision.external_id, decision.account)[: last - 1]
    return call, rest


def _shortened(decision: Decision) -> Decision:
    cut = {name: _cut(getattr(decision, name)) for name in _CUT}
    failures = tuple(Failure(*map(_cut, failure)) for failure in decision.failures[:_FAILURES])
    return msgspec.structs.replace(decision, failures=failures, **cut)


_OUTCOMES: Final = {OK: "allow", COUNTED: COUNTED, GAP: GAP, EFFECT: EFFECT}
_CUT: Final = ("tool", "peer", "request_id", "traceparent", "group", "external_id")
_ERASED: Final = Rest()
_NONE: Final[tuple[Any, ...]] = ()
_GONE: Final = ""  # in place of an erased value
UNPROVEN: Final = ChainFacts()  # the facts of an unauthenticated call: none


def unpack(payload: bytes) -> Decision:
    """Parse a decision in a journal.

    Args:
        payload: The bytes of ``Decision.pack``.

    Returns:
        The decision, without its journal position and without a grant.

    Raises:
        AuditError: It is not of a journal of this version.
    """
    return Decision.of(read_payload(payload))


def unpack_record(kept: bytes, body: bytes | None) -> Decision:
    """Parse a record of the log.

    Args:
        kept: The leaf.
        body: Its body, or None if that was erased.

    Returns:
        The decision, without a grant.

    Raises:
        AuditError: It is no record of this version, or the body is another record's.
    """
    return Decision.of(read_sealed(kept, body))


def decision_id(boot: str, sequence: int) -> str:
    """Return the name of a decision for people and tickets; empty while it is not recorded singly."""
    return f"{boot}-{sequence}" if sequence else ""


class DecisionSink(Protocol):
    """Receives a verifier's decisions.

    Attributes:
        waits: Whether ``append`` may wait for a disk or a network.
    """

    waits: bool

    def append(self, decision: Decision) -> int:
        """Record a decision, and set its ``sequence``, ``verifier`` and ``boot``.

        Args:
            decision: The decision.

        Returns:
            The sequence; 0 for a denial without room, which is counted.

        Raises:
            AuditError: An allow could not be recorded.
        """

    # A record for each would let a flood of junk fill the journal.
    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; the sink makes at most one record of counts a second.

        Args:
            code: The refusal's reason code.
            peer: The caller's network address, or None.
            watched: Whether the call goes on in watch mode.
        """

    def close(self) -> None:
        """Record the counts and release resources; idempotent."""


class InMemoryDecisions:
    """Decisions in a list, for tests and examples.

    Args:
        clock: Wall clock in ms.
        verifier: The verifier's name.
    """

    waits = False

    def __init__(self, *, clock: Callable[[], int] = now_ms, verifier: str = "") -> None:
        self.decisions: list[Decision] = []
        self._clock, self._verifier, self._boot = clock, verifier, os.urandom(6).hex()
        self._tallies, self._lock = (Tally(), Tally()), threading.Lock()

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        with self._lock:
            return self._keep(decision)

    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; see ``DecisionSink``."""
        with self._lock:
            self._tallies[watched].add(code, peer)
            if self._tallies[watched].due(self._clock() / 1000):
                self._flush(watched)

    def close(self) -> None:
        """Record the counts; see ``DecisionSink``."""
        with self._lock:
            for watched, tally in enumerate(self._tallies):
                if tally:
                    self._flush(bool(watched))

    def _flush(self, watched: bool) -> None:
        tally, now_ms = self._tallies[watched], self._clock()
        self._keep(Decision(COUNTED, now_ms, UNPROVEN, counts=tally.counts(), watched=watched))
        tally.clear(now_ms / 1000)

    def _keep(self, decision: Decision) -> int:
        self.decisions.append(decision)
        decision.sequence, decision.verifier, decision.boot = len(self.decisions), self._verifier, self._boot
        return decision.sequence


def _cut(text: Any) -> Any:
    return text[: _TEXT_CHARS - 1] + "…" if isinstance(text, str) and len(text) > _TEXT_CHARS else text
