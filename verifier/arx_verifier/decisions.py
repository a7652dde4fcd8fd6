# SPDX-License-Identifier: Apache-2.0
"""One decision: who asked, through whom, for what, under which policy and epoch view, and why so.  SPEC 12.

Here stand a decision's facts, its one byte form and what a verifier needs of a sink.  Keeping the bytes is a sink's
work (``spool``), telling the story of a session is a reader's.  No token, key or signature is ever part of a decision.

The byte form is a MessagePack array of fixed positions, ``[version, chain, call]``: ``chain`` is the same for every
call with one token and is packed once, ``call`` holds the rest.  What could not be proven is not recorded singly, or
junk could fill the journal: it is counted, and a second's counts are one record.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, Protocol

import msgspec

from arx_verifier.errors import AuditError, Failure
from arx_verifier.tally import Counted, Tally

RECORD_VERSION: Final = 1
MAX_RECORD_BYTES: Final = 32 * 1024  # a chain is bounded by its token, a call by the cuts below
SALT_BYTES: Final = 16
_PREFIX: Final = bytes((0x93, RECORD_VERSION))  # an array of three, the version in one byte
_CALL_BYTES: Final = 4 * 1024  # a call's part above this has its texts cut
_TEXT_CHARS: Final = 128
_FAILURES: Final = 8

OK: Final = "ok"
COUNTED: Final = "counted"


class ChainFacts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """What one token's chain says, the same for each of its calls.  Positions are fixed: append, never reorder.

    Attributes:
        agent: The agent path the task was begun for.
        session: The session.
        named: The agents handed to, outermost first.
        links: The public names of the hand-overs, one for each of ``named``.
        task: The task, or None.
        tasks: Sub-tasks that the chain narrows to.
        token: The token's id.
        subject: The person or account acted for, or None.
        audience: The service that decided.
        policy: Digest of the policy it was minted under, or None.
        kid: The audience key's id.
        assurance: How the last holder was known: ``bearer`` says by possession alone.
    """

    agent: str = ""
    session: str = ""
    named: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    task: str | None = None
    tasks: tuple[str, ...] = ()
    token: str = ""
    subject: str | None = None
    audience: str = ""
    policy: str | None = None
    kid: str = ""
    assurance: str = "bearer"

    @cached_property
    def packed(self) -> bytes:
        """The record's bytes up to the call, packed at the first use."""
        return _PREFIX + _encode(msgspec.structs.astuple(self))


class Decision(msgspec.Struct):
    """One decision, allowed or refused.

    Attributes:
        code: ``ok``, a code of ``REASONS``, or ``counted`` for a record of counts.
        at: When, in ms since the Unix epoch.
        facts: What the proven chain says; its members can be read here too.
        tool: The tool asked for.
        args_digest: SHA-256 over ``salt`` and the arguments; empty if none was made.
        salt: 16 random bytes of this decision; erasing them ends guessing at the arguments.
        inc: Incarnation of the epoch view decided under.
        applied: The sequence that view had applied.
        age_ms: The age of that view, -1 when there was none.
        failures: What did not hold.
        peer: Network address of the caller, or None.
        correlation: A request id of the adapter, or None.
        counts: For ``counted``: what was refused without a record of its own.
        sequence: Position in its journal, from 1; 0 while not recorded.
        verifier: The verifier whose journal holds it.
        boot: The run of that verifier.
        grant: What the verifier granted, on an allow; never recorded.
    """

    code: str
    at: int
    facts: ChainFacts
    tool: str = ""
    args_digest: bytes = b""
    salt: bytes = b""
    inc: str = ""
    applied: int = 0
    age_ms: int = -1
    failures: tuple[Failure, ...] = ()
    peer: str | None = None
    correlation: str | None = None
    counts: tuple[Counted, ...] = ()
    sequence: int = 0
    verifier: str = ""
    boot: str = ""
    grant: Any = None

    @property
    def allowed(self) -> bool:
        """Whether the call may go ahead."""
        return self.code == OK

    @property
    def outcome(self) -> str:
        """``allow``, ``deny``, or ``counted`` for a record of counts."""
        return "allow" if self.code == OK else COUNTED if self.code == COUNTED else "deny"

    @property
    def id(self) -> str:
        """A name for people and tickets, empty while not recorded singly."""
        return f"{self.boot}-{self.sequence}" if self.sequence else ""

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

    def pack(self) -> bytes:
        """Return the record: what a sink keeps.

        Returns:
            One MessagePack array, at most ``MAX_RECORD_BYTES`` long.

        Raises:
            AuditError: The chain's facts are longer than any token could make them.
        """
        call = _encode(_call(self))
        if len(call) > _CALL_BYTES:
            call = _encode(_call(_shortened(self)))
        record = self.facts.packed + call
        if len(record) > MAX_RECORD_BYTES:
            raise AuditError(f"a decision of {len(record)} bytes cannot be recorded")
        return record

    def to_dict(self) -> dict[str, Any]:
        """Return the decision for JSON: bytes in hex, one level, nothing secret."""
        names = ("id", "outcome", *self.__struct_fields__)
        values = {name: getattr(self, name) for name in names if name not in ("facts", "grant")}
        values |= msgspec.structs.asdict(self.facts)
        values |= {"args_digest": self.args_digest.hex(), "salt": self.salt.hex()}
        values["failures"] = [failure._asdict() for failure in self.failures]
        values["counts"] = [counted._asdict() for counted in self.counts]
        return values


class _Call(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    at: int
    code: str
    tool: str
    args_digest: bytes
    salt: bytes
    inc: str
    applied: int
    age_ms: int
    failures: tuple[Failure, ...]
    peer: str | None
    correlation: str | None
    counts: tuple[Counted, ...]


def _call(decision: Decision) -> tuple[Any, ...]:
    """Return the fields of ``_Call`` in order; a tuple costs less than the struct and has the same bytes."""
    return (
        decision.at,
        decision.code,
        decision.tool,
        decision.args_digest,
        decision.salt,
        decision.inc,
        decision.applied,
        decision.age_ms,
        decision.failures,
        decision.peer,
        decision.correlation,
        decision.counts,
    )


def _shortened(decision: Decision) -> Decision:
    cut = {name: _cut(getattr(decision, name)) for name in ("tool", "peer", "correlation")}
    failures = tuple(Failure(*map(_cut, failure)) for failure in decision.failures[:_FAILURES])
    return msgspec.structs.replace(decision, failures=failures, **cut)


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    chain: ChainFacts
    call: _Call


_READ: Final = msgspec.msgpack.Decoder(_Record)
_WRITE: Final = msgspec.msgpack.Encoder()
_JSON: Final = msgspec.json.Encoder(order="deterministic", enc_hook=lambda value: f"({type(value).__name__})")
UNPROVEN: Final = ChainFacts()  # the facts of what nobody proved: none


def unpack(record: bytes) -> Decision:
    """Read a record.

    Args:
        record: What ``Decision.pack`` made.

    Returns:
        The decision, without its journal position and without a grant.

    Raises:
        AuditError: Not a record of this version.
    """
    if record[:2] != _PREFIX:
        raise AuditError("not a decision record of version 1")
    try:
        read = _READ.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    return Decision(facts=read.chain, **msgspec.structs.asdict(read.call))


def digest_arguments(args: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Hash a call's arguments for its record.

    Args:
        args: The arguments; a value that JSON has no form for counts by its type alone, so that none of its code runs.

    Returns:
        SHA-256 over salt and deterministic JSON, and the 16-byte salt; two empty strings if there is no such JSON.
    """
    salt = os.urandom(SALT_BYTES)
    try:
        return hashlib.sha256(salt + _JSON.encode(args)).digest(), salt
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError):
        return b"", b""


class DecisionSink(Protocol):
    """Where a verifier's decisions go.

    Attributes:
        waits: Whether ``append`` may wait for a disk or a network.
    """

    waits: bool

    def append(self, decision: Decision) -> int:
        """Keep a decision, and set its ``sequence``, ``verifier`` and ``boot``.

        Returns:
            The sequence; 0 for a denial for which there was no room, which is counted.

        Raises:
            AuditError: An allow that could not be kept.
        """

    def count(self, code: str, peer: str | None) -> None:
        """Count a refusal that was not proven: at most a record a second comes of it."""

    def close(self) -> None:
        """Keep the counts and let go; idempotent."""


class InMemoryDecisions:
    """Decisions in a list, for tests and examples: gone with the process.

    Args:
        clock: Wall clock in ms.
        verifier: The verifier's name.
    """

    waits = False

    def __init__(self, *, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000, verifier: str = "") -> None:
        self.decisions: list[Decision] = []
        self._clock, self._verifier, self._boot = clock, verifier, os.urandom(6).hex()
        self._tally, self._lock = Tally(), threading.Lock()

    def append(self, decision: Decision) -> int:
        """Keep a decision; see ``DecisionSink``."""
        with self._lock:
            return self._keep(decision)

    def count(self, code: str, peer: str | None) -> None:
        """Count an unproven refusal; see ``DecisionSink``."""
        with self._lock:
            self._tally.add(code, peer)
            if self._tally.due(now_s := self._clock() / 1000):
                self._flush(now_s)

    def close(self) -> None:
        """Keep the counts; see ``DecisionSink``."""
        with self._lock:
            if self._tally:
                self._flush(self._clock() / 1000)

    def _flush(self, now_s: float) -> None:
        self._keep(Decision(COUNTED, self._clock(), UNPROVEN, counts=self._tally.counts()))
        self._tally.clear(now_s)

    def _keep(self, decision: Decision) -> int:
        self.decisions.append(decision)
        decision.sequence, decision.verifier, decision.boot = len(self.decisions), self._verifier, self._boot
        return decision.sequence


def _encode(value: Any) -> bytes:
    try:
        return _WRITE.encode(value)
    except UnicodeEncodeError:
        return _WRITE.encode(_clean(value))


def _clean(value: Any) -> Any:
    """Write half surrogates as escapes: a caller's odd text must not keep a decision out of the journal."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return tuple(map(_clean, value)) if isinstance(value, tuple) else value


def _cut(text: Any) -> Any:
    return text[: _TEXT_CHARS - 1] + "…" if isinstance(text, str) and len(text) > _TEXT_CHARS else text
