# SPDX-License-Identifier: Apache-2.0
"""The bytes of a decision record: what is kept for ever, what can be erased, and how both are told apart.  SPEC 12.

A record has two parts.  The *kept* part is the leaf of the log; it names the *body*, which holds whatever is about a
person, by its SHA-256.  So a body can be erased and every proof still holds; its 16 random bytes of salt keep anybody
from guessing what stood in it.  A journal holds both parts as they are written, without verifier, boot and sequence,
which the file says; ``seal`` puts them together, away from the way of the request.

Arguments are recorded as a salted digest.  Without salt it could be undone by trying, as amounts and ids are few; the
salt stands in the part that can be erased.  ``decision`` says what the members mean.
"""

import os
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from arx_verifier.errors import AuditError, RequestError
from arx_verifier.request import check_depth
from arx_verifier.token import sha256_of

RECORD_VERSION: Final = 1
MAX_RECORD_BYTES: Final = 32 * 1024  # a chain is bounded by its token, a call by its cuts
MAX_FACTS_BYTES: Final = 16 * 1024  # of them what a chain says; a token has room for a third of it
_JOURNAL: Final = bytes((0x94, RECORD_VERSION))  # an array of four: version, facts, person, [call, rest]
_KEPT: Final = bytes((0x97, RECORD_VERSION))  # an array of seven, see ``seal``
_BODY: Final = b"\x92"  # an array of two: person, rest
_DIGEST: Final = b"\xc4\x20"  # 32 bytes follow
SALT_BYTES: Final = 16
MAX_ARGUMENTS_BYTES: Final = 8 * 1024  # of the arguments' JSON, where an operator has it recorded
_SALTS_AT_ONCE: Final = 256
_JSON: Final = msgspec.json.Encoder(order="deterministic", enc_hook=lambda value: f"({type(value).__name__})")
_BRACKET: Final = ord("[")
_NO_JSON: Final = (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError)


class Facts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one token's chain says and what is kept of it, the same for each of its calls.

    Positions are fixed.

    Attributes:
        agent: The agent path the task was begun for.
        session: The session.
        named: The agents delegated to, outermost first.
        links: The public names of the delegations, one for each of ``named``.
        task: The task, or None.
        tasks: Sub-tasks that the chain attenuates to.
        token: The token's id: the link of the holder whom the mint named.
        audience: The service that decided.
        policy: Digest of the policy it was minted under, or None.
        kid: The audience key's id.
        assurance: How the last holder was known: ``bearer`` says by possession alone.
        model: The agent's model, as the token carries it, or None.
    """

    agent: str = ""
    session: str = ""
    named: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    task: str | None = None
    tasks: tuple[str, ...] = ()
    token: str = ""
    audience: str = ""
    policy: str | None = None
    kid: str = ""
    assurance: str = "bearer"
    model: str | None = None


class _Packed:
    """Packs a chain's facts at the first use; from then on the bytes are found in its ``__dict__``.

    Not ``cached_property``: before Python 3.12 its lock costs as much as the packing.
    """

    def __get__(self, facts: "ChainFacts", _: object = None) -> bytes:
        packed = pack_facts(facts)
        if len(packed) > MAX_FACTS_BYTES:
            raise AuditError(f"a chain's facts of {len(packed)} bytes cannot be recorded")
        facts.__dict__["packed"] = packed
        return packed


class ChainFacts(Facts, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """All that one token's chain says, with what can be erased.

    Attributes:
        subject: Issuer and subject of the person or account acted for, or None.
        meta: What else the token says of its agent, as names and values.
        packed: The journal's bytes up to the call.
    """

    subject: tuple[str, str] | None = None
    meta: tuple[tuple[str, str], ...] = ()

    packed = _Packed()


_KEPT_FACTS: Final = len(Facts.__struct_fields__)


def pack_facts(facts: ChainFacts) -> bytes:
    """Write what a journal's record begins with: version, what is kept of a chain's facts, what can be erased."""
    values = msgspec.structs.astuple(facts)
    return _JOURNAL + encode((values[:_KEPT_FACTS], values[_KEPT_FACTS:]))[1:]  # without the head of that array


class Gap(NamedTuple):
    """Decisions that were answered or refused and have no record.

    Attributes:
        why: ``lost``: their file was deleted or cut; ``dropped``: a best-effort journal had no room.
        first: The first sequence that is missing, 0 where they had none.
        last: The last one.
        times: How many there were.
        since: From when, ms since the Unix epoch.
        until: Until when.
    """

    why: str
    first: int
    last: int
    times: int
    since: int
    until: int


class CallRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The kept part of one call.  Positions are fixed.

    Attributes:
        at: When, in ms since the Unix epoch.
        code: ``ok``, a reason, ``counted`` or ``gap``.
        tool: The tool asked for.
        args_digest: SHA-256 over the body's salt and the arguments' JSON; empty where they have none.
        incarnation: Incarnation of the epoch view decided under.
        applied: The sequence that view had applied.
        age_ms: The age of that view, -1 when there was none.
        rules: Place and rule of each thing that did not hold.
        ends: Sequence of the decision whose running work this one ended; 0 for a decision of its own.
        counts: For ``counted``: code and how often.
        gap: For ``gap``: what is missing.
    """

    at: int
    code: str
    tool: str
    args_digest: bytes
    incarnation: str
    applied: int
    age_ms: int
    rules: tuple[tuple[str, str], ...]
    ends: int
    counts: tuple[tuple[str, int], ...]
    gap: Gap | None


class Rest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The erasable part of one call.  Positions are fixed.

    Attributes:
        salt: 16 random bytes.
        details: What was expected and what came, one for each of ``Call.rules``.
        peer: Network address of the caller, or None.
        request_id: The request's id in its protocol, or None.
        traceparent: The caller's trace context (W3C), or None.
        peers: The peers of ``Call.counts``, one for each.
        arguments: The arguments' JSON where the operator asked for it; empty where it is too long; else None.
    """

    salt: bytes = b""
    details: tuple[tuple[str, str], ...] = ()
    peer: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    peers: tuple[str, ...] = ()
    arguments: bytes | None = None


class Sealed(NamedTuple):
    """A record as the log holds it.

    Attributes:
        kept: The leaf: these very bytes are hashed.
        body: What can be erased; ``kept`` names it by its digest.
    """

    kept: bytes
    body: bytes


class OpenedRecord(NamedTuple):
    """A record that was read.

    Attributes:
        verifier: Whose decision; empty while in a journal, whose file says it.
        boot: The run of that verifier.
        sequence: Position in that run, from 1.
        facts: What the chain says; without subject and metadata once the body is erased.
        call: The kept part of the call.
        rest: Its erasable part, or None once that is erased.
    """

    verifier: str
    boot: str
    sequence: int
    facts: ChainFacts
    call: CallRecord
    rest: Rest | None


_Person = tuple[tuple[str, str] | None, tuple[tuple[str, str], ...]]
_WRITE: Final = msgspec.msgpack.Encoder()
_SPLIT: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, msgspec.Raw, tuple[msgspec.Raw, msgspec.Raw]])
_READ_JOURNAL: Final = msgspec.msgpack.Decoder(tuple[int, Facts, _Person, tuple[CallRecord, Rest]])
_READ_KEPT: Final = msgspec.msgpack.Decoder(tuple[int, str, str, int, Facts, CallRecord, bytes])
_READ_BODY: Final = msgspec.msgpack.Decoder(tuple[_Person, Rest])
_BAD = (msgspec.MsgspecError, UnicodeDecodeError)


def seal(payload: bytes, verifier: str, boot: str, sequence: int) -> Sealed:
    """Make the record of what a journal holds.

    Args:
        payload: What ``Decision.pack`` made.
        verifier: Whose journal.
        boot: Its run.
        sequence: The decision's place in it.

    Returns:
        The kept part, ``[version, verifier, boot, sequence, facts, call, SHA-256 of the body]``, and the body,
        ``[person, rest]``.

    Raises:
        AuditError: Not of a journal of this version.
    """
    _hold_version(payload, _JOURNAL)
    try:
        _, facts, person, (call, rest) = _SPLIT.decode(payload)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    body = _BODY + bytes(person) + bytes(rest)
    place = encode(verifier) + encode(boot) + encode(sequence)
    return Sealed(_KEPT + place + bytes(facts) + bytes(call) + _DIGEST + sha256(body).digest(), body)


def read_payload(payload: bytes) -> OpenedRecord:
    """Read what a journal holds.

    Raises:
        AuditError: Not of a journal of this version.
    """
    _hold_version(payload, _JOURNAL)
    try:
        _, facts, person, (call, rest) = _READ_JOURNAL.decode(payload)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    return OpenedRecord("", "", 0, _whole(facts, person), call, rest)


def read_sealed(kept: bytes, body: bytes | None) -> OpenedRecord:
    """Read a record of the log.

    Args:
        kept: The leaf.
        body: Its body, or None if that was erased.

    Raises:
        AuditError: Not a record of this version, or not its body.
    """
    _hold_version(kept, _KEPT)
    try:
        _, verifier, boot, sequence, facts, call, digest = _READ_KEPT.decode(kept)
        if len(digest) != sha256().digest_size or sequence < 0:
            raise AuditError("a decision record names no body")
        if body is None:
            return OpenedRecord(verifier, boot, sequence, _whole(facts, (None, ())), call, None)
        if sha256(body).digest() != digest:
            raise AuditError("a body is not that of its record")
        person, rest = _READ_BODY.decode(body)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    return OpenedRecord(verifier, boot, sequence, _whole(facts, person), call, rest)


def encode(value: Any) -> bytes:
    """Write MessagePack; half surrogates as escapes, so that a caller's odd text keeps nothing out of a journal."""
    try:
        return _WRITE.encode(value)
    except UnicodeEncodeError:
        return _WRITE.encode(_clean(value))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return tuple(map(_clean, value)) if isinstance(value, tuple) else value


def _hold_version(raw: bytes, start: bytes) -> None:
    if raw[:2] != start:
        raise AuditError(f"not a decision record of version {RECORD_VERSION}")


def _whole(facts: Facts, person: _Person) -> ChainFacts:
    subject, meta = person
    return ChainFacts(**msgspec.structs.asdict(facts), subject=subject, meta=meta)


def digest_arguments(args: Mapping[str, Any], form: bytes | None = None) -> tuple[bytes, bytes]:
    """Hash a call's arguments for its record.

    Args:
        args: The arguments; a value that JSON has no form for counts by its type alone, so that none of its code runs.
        form: Their JSON where it was made already: RFC 8785, of arguments without a float or a name beyond U+FFFF,
            where it is the same.

    Returns:
        SHA-256 over salt and deterministic JSON, empty if there is no such JSON; and the 16-byte salt.
    """
    salt = new_salt()
    try:
        return sha256_of(salt, form if form is not None else _JSON.encode(args)), salt
    except _NO_JSON:
        return b"", salt


def form_of(args: Mapping[str, Any]) -> bytes:
    """Return the JSON that ``digest_arguments`` hashes, of arguments that may be allowed.

    Raises:
        RequestError: There is none, as with half of a surrogate pair, or it has more than 32 nested containers.
    """
    try:
        raw = _JSON.encode(args)
    except _NO_JSON as error:
        raise RequestError("the arguments have no JSON form") from error
    if _BRACKET in raw or raw.rfind(b"{") > 0:  # or in a text
        check_depth(msgspec.json.decode(raw))
    return raw


def keep_arguments(args: Mapping[str, Any]) -> bytes:
    """Return the JSON that ``digest_arguments`` hashes, for its record; empty if there is none or it is too long."""
    try:
        raw = _JSON.encode(args)
    except _NO_JSON:
        return b""
    return raw if len(raw) <= MAX_ARGUMENTS_BYTES else b""


_SALTS: Final[deque[bytes]] = deque()


def new_salt() -> bytes:
    """Return 16 random bytes that were given to nobody else: one read of the kernel's serves many."""
    try:
        return _SALTS.pop()
    except IndexError:
        pool = os.urandom(SALT_BYTES * _SALTS_AT_ONCE)
        _SALTS.extend([pool[at : at + SALT_BYTES] for at in range(SALT_BYTES, len(pool), SALT_BYTES)])
        return pool[:SALT_BYTES]


os.register_at_fork(after_in_child=_SALTS.clear)  # a child must not give out its parent's
