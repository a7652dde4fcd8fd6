# SPDX-License-Identifier: Apache-2.0
"""The bytes of a decision record: the kept part, the erasable body, and the journal's form of both.  SPEC 12.

The *kept* part is the leaf of the log.  It names the *body*, which holds everything about a person, by its SHA-256, so
that a body can be erased while every proof still verifies.  A journal holds both parts without verifier, boot and
sequence, which its file states; ``seal`` makes the record of them, when it is shipped.  ``decision`` has the meaning of
the members.
"""

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from arx_verifier._platform import at_fork
from arx_verifier.errors import AuditError, RequestError
from arx_verifier.jcs import flat_jcs, jcs
from arx_verifier.request import BOXES
from arx_verifier.token.wire import sha256_of

RECORD_VERSION: Final = 1
WATCH_VERSION: Final = 2  # of a record of a call in watch mode, which has further members
EFFECT_VERSION: Final = 3  # of a decision whose effect is recorded too, and of the record of the effect
LATEST_VERSION: Final = 4  # of a record that has set marks, or whose caller states its box
EFFECT: Final = "effect"  # the code of the record of an effect
MAX_RECORD_BYTES: Final = 32 * 1024  # the token bounds a chain's facts; the texts of a call are cut
MAX_FACTS_BYTES: Final = 16 * 1024  # a chain's facts in it: at most a third, and at most half for its caveats
_JOURNAL: Final = b"\x94"  # an array of four: version, facts, person, [call, rest]
_KEPT: Final = b"\x97"  # an array of seven, see ``seal``
_PLAIN: Final = bytes((0x94, RECORD_VERSION))
_VERSIONS: Final = tuple(bytes((version,)) for version in range(RECORD_VERSION, LATEST_VERSION + 1))
_BODY: Final = b"\x92"  # an array of two: person, rest
_DIGEST: Final = b"\xc4\x20"  # 32 bytes follow
SALT_BYTES: Final = 16  # amounts and ids are few: without a salt, the digest of arguments or of a body could be guessed
MAX_ARGUMENTS_BYTES: Final = 8 * 1024  # of their JSON, if the operator has it recorded
_SALTS_AT_ONCE: Final = 256
_JSON: Final = msgspec.json.Encoder(order="deterministic", enc_hook=lambda value: f"({type(value).__name__})")
_NO_JSON: Final = (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError)


class ProvenHolder(NamedTuple):
    """One proven holder of a bound chain.

    Attributes:
        key: Its Ed25519 public key, 43 characters.
        said: What the holder before signed of the delegation's restrictions; empty for the first holder.
        signature: That holder's signature; empty for the first holder.
    """

    key: str
    said: bytes = b""
    signature: bytes = b""


class SignedCall(NamedTuple):
    """A call that its holder signed, as evidence for others than the service.  SPEC 16.3.

    Attributes:
        said: What the signature says of the token: SHA-256 of the chain's last signature.
        plain: The caveat of the call without the signature.
        signature: The holder's Ed25519 signature.
    """

    said: bytes
    plain: bytes
    signature: bytes


class Facts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The kept facts of one token's chain, the same for each of its calls.

    Positions are fixed.

    Attributes:
        agent: The path of the agent that the task was started for.
        session: The session.
        named: The agents delegated to, outermost first.
        links: The public names of the delegations, one for each of ``named``.
        task: The task, or None.
        tasks: Sub-tasks that the chain attenuates to.
        token: The token's id: the link of the holder whom the mint named.
        audience: The service that decided.
        policy: Digest of the policy it was minted under, or None.
        kid: The audience key's id.
        assurance: How the last holder was authenticated; ``bearer`` means possession alone, ``bound`` a proof by the
            last key of ``holders``.
        model: The agent's model, as the token carries it, or None.
        holders: The first holder and each delegated one, in the order of ``named``; only a bound chain's are written.
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
    holders: tuple[ProvenHolder, ...] = ()


class _Packed:
    """Packs a chain's facts at the first use, and caches the bytes in its ``__dict__``."""

    # Not `cached_property`: before Python 3.12 its lock costs as much as the packing.

    def __get__(self, facts: "ChainFacts", _: object = None) -> bytes:
        packed = pack_facts(facts)
        if len(packed) > MAX_FACTS_BYTES:
            raise AuditError(f"a chain's facts of {len(packed)} bytes cannot be recorded")
        facts.__dict__["packed"] = packed
        return packed


class ChainFacts(Facts, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """All facts of one token's chain, with the erasable ones.

    Attributes:
        subject: Issuer and subject of the person or account on whose behalf it acts, or None.
        meta: Further facts about its agent in the token, as names and values.
        caveats: For each of ``named``, the caveats from the delegation before it to its own, as canonical JSON without
            ``hop``.  Those before the first have the mint's own, without the first caveat.  None at all if they are too
            long together.
        packed: The journal's bytes up to the call.
    """

    subject: tuple[str, str] | None = None
    meta: tuple[tuple[str, str], ...] = ()
    caveats: tuple[tuple[str, ...], ...] = ()

    packed = _Packed()


_KEPT_FACTS: Final = len(Facts.__struct_fields__)


def pack_facts(facts: ChainFacts) -> bytes:
    """Return the beginning of a journal's record: version, kept facts, erasable facts."""
    values = msgspec.structs.astuple(facts)
    kept = values[: _KEPT_FACTS - (not facts.holders)]  # only a bound chain has them
    return _PLAIN + encode((kept, values[_KEPT_FACTS:]))[1:]  # without the head of that array


class Gap(NamedTuple):
    """Decisions that were made and have no record.

    Attributes:
        why: ``lost``: their file was deleted or cut; ``dropped``: a best-effort journal had no room.
        first: The first missing sequence, 0 if they had none.
        last: The last one.
        times: Their number.
        since: Time of the first, ms since the Unix epoch.
        until: Time of the last.
    """

    why: str
    first: int
    last: int
    times: int
    since: int
    until: int


class EffectRecord(NamedTuple):
    """What is known of the effect of an allowed call.  SPEC 12.8.

    Attributes:
        result: ``awaited``: in the record of a decision whose effect gets a record of its own; and there ``done``,
            ``failed`` or ``unknown``.
        of: The id of that decision; empty in its own record.
        status: The status of the answer in its protocol; 0 without one.
        size: The length of the answer, bytes; -1 if it was not seen whole.
        digest: SHA-256 over the body's salt and the answer; empty if it is long, or was not seen whole.
        took_ms: The time from the decision to the end of the answer, ms; -1 if it is not known.
    """

    result: str
    of: str = ""
    status: int = 0
    size: int = -1
    digest: bytes = b""
    took_ms: int = -1


AWAITED: Final = EffectRecord("awaited")
_RESULTS: Final = ("done", "failed", "unknown")


class CredentialRecord(NamedTuple):
    """The credential with which a gateway forwarded a call.  SPEC 12.9.

    Attributes:
        kind: ``person``: an access token of the person's own account.
        connection: The id of the person's connection.
        scopes: The token's scopes, as its issuer named them.
        source: ``fetched`` from the mint for this call, or ``cached`` since an earlier one.
    """

    kind: str
    connection: str
    scopes: tuple[str, ...]
    source: str


class CallRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The kept part of one call.  Positions are fixed.

    Attributes:
        at: Its time, ms since the Unix epoch.
        code: ``ok``, a reason, ``counted`` or ``gap``.
        tool: The requested tool.
        args_digest: SHA-256 over the body's salt and the arguments' JSON; empty if they have none.
        incarnation: Incarnation of the epoch view.
        applied: The sequence that the view had applied.
        age_ms: The age of the view, ms; -1 without one.
        rules: Place and rule of each condition that did not hold.
        ends: Sequence of the decision whose running work this one ended; 0 for a decision of its own.
        counts: For ``counted``: codes with their numbers.
        gap: For ``gap``: the missing records.
        signed: Of an allowed call that its holder signed: the evidence; only then it is written.
        watched: Whether the call went on although it would be refused; version 1 has it not.
        effect: What is known of the call's effect; only versions 3 and 4 have it.
        credential: In the record of an effect: the person's credential that the call had; only then, or in version 4,
            it is written.
        marks: The names of the marks that the call has set; only version 4 has it.
        box: What the caller states of the box that it runs in, one of ``BOXES``; only version 4 has it,
            if it was stated.
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
    signed: SignedCall | None = None
    watched: bool = False
    effect: EffectRecord | None = None
    credential: CredentialRecord | None = None
    marks: tuple[str, ...] = ()
    box: str | None = None


class Rest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The erasable part of one call.  Positions are fixed.

    Attributes:
        salt: 16 random bytes.
        details: Expected and given value for each of ``Call.rules``.
        peer: Network address of the caller, or None.
        request_id: The request's id in its protocol, or None.
        traceparent: The caller's trace context (W3C), or None.
        peers: The peers of ``Call.counts``, one for each.
        arguments: The arguments' JSON if the operator has it recorded; empty if it was too long; else None.
        group: Of a call in watch mode without a proven token: what the operator groups such callers by, or None;
            version 1 has it not.
        external_id: The name that the tool itself gave to the effect, or None; only versions 3 and 4 have it.
        account: The account of ``Call.credential``; only with that, or in version 4, it is written.
    """

    salt: bytes = b""
    details: tuple[tuple[str, str], ...] = ()
    peer: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    peers: tuple[str, ...] = ()
    arguments: bytes | None = None
    group: str | None = None
    external_id: str | None = None
    account: str | None = None


class Sealed(NamedTuple):
    """A record in the log.

    Attributes:
        kept: The leaf, hashed byte for byte.
        body: The erasable part, whose digest is in ``kept``.
    """

    kept: bytes
    body: bytes


class OpenedRecord(NamedTuple):
    """A parsed record.

    Attributes:
        verifier: The verifier's id; empty in a journal, whose file states it.
        boot: The run of that verifier.
        sequence: Sequence in that run, from 1.
        facts: The chain's facts; without subject and metadata once the body is erased.
        call: The kept part of the call.
        rest: Its erasable part, or None once that is erased.
    """

    verifier: str
    boot: str
    sequence: int
    facts: ChainFacts
    call: CallRecord
    rest: Rest | None


_Person = tuple[tuple[str, str] | None, tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...]]
_WRITE: Final = msgspec.msgpack.Encoder()
_SPLIT: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw, msgspec.Raw, tuple[msgspec.Raw, msgspec.Raw]])
_READ_JOURNAL: Final = msgspec.msgpack.Decoder(tuple[int, Facts, _Person, tuple[CallRecord, Rest]])
_READ_KEPT: Final = msgspec.msgpack.Decoder(tuple[int, str, str, int, Facts, CallRecord, bytes])
_READ_BODY: Final = msgspec.msgpack.Decoder(tuple[_Person, Rest])
_BAD = (msgspec.MsgspecError, UnicodeDecodeError)


def seal(payload: bytes, verifier: str, boot: str, sequence: int) -> Sealed:
    """Return the record of a decision in a journal.

    Args:
        payload: The bytes of ``Decision.pack``.
        verifier: The journal's verifier.
        boot: Its run.
        sequence: The decision's sequence in it.

    Returns:
        The kept part, ``[version, verifier, boot, sequence, facts, call, SHA-256 of the body]``, and the body,
        ``[person, rest]``.

    Raises:
        AuditError: It is not of a journal of this version.
    """
    _hold_version(payload, _JOURNAL)
    try:
        version, facts, person, (call, rest) = _SPLIT.decode(payload)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    body = _BODY + bytes(person) + bytes(rest)
    place = encode(verifier) + encode(boot) + encode(sequence)
    head = _KEPT + bytes((version,))
    return Sealed(head + place + bytes(facts) + bytes(call) + _DIGEST + sha256(body).digest(), body)


def read_payload(payload: bytes) -> OpenedRecord:
    """Parse a decision in a journal.

    Args:
        payload: The bytes of ``Decision.pack``.

    Raises:
        AuditError: It is not of a journal of this version.
    """
    _hold_version(payload, _JOURNAL)
    try:
        version, facts, person, (call, rest) = _READ_JOURNAL.decode(payload)
        hold_members(version, call, rest)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    return OpenedRecord("", "", 0, _whole(facts, person), call, rest)


def read_sealed(kept: bytes, body: bytes | None) -> OpenedRecord:
    """Parse a record of the log.

    Args:
        kept: The leaf.
        body: Its body, or None if that was erased.

    Raises:
        AuditError: It is no record of this version, or the body is another record's.
    """
    _hold_version(kept, _KEPT)
    try:
        version, verifier, boot, sequence, facts, call, digest = _READ_KEPT.decode(kept)
        hold_members(version, call)
        if len(digest) != sha256().digest_size or sequence < 0:
            raise AuditError("a decision record has no digest of a body")
        if body is None:
            return OpenedRecord(verifier, boot, sequence, _whole(facts, (None, (), ())), call, None)
        if sha256(body).digest() != digest:
            raise AuditError("the body's digest is not the one in the record")
        person, rest = _READ_BODY.decode(body)
        hold_members(version, call, rest)
    except _BAD as error:
        raise AuditError(f"a decision record cannot be read: {error}") from error
    return OpenedRecord(verifier, boot, sequence, _whole(facts, person), call, rest)


def encode(value: Any) -> bytes:
    """Return MessagePack; lone surrogates become escapes."""
    # A caller's odd text must not prevent a record.
    try:
        return _WRITE.encode(value)
    except UnicodeEncodeError:
        return _WRITE.encode(_clean(value))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return tuple(map(_clean, value)) if isinstance(value, tuple) else value


def _hold_version(raw: bytes, start: bytes) -> None:
    if raw[:1] != start or raw[1:2] not in _VERSIONS:
        raise AuditError(f"not a decision record of version {RECORD_VERSION} to {LATEST_VERSION}")


def version_of(marks: Sequence[str], box: str | None, effect: EffectRecord | None, *, watched: bool) -> int:
    """Return the version of a record with these members.  SPEC 12.3."""
    # One form alone: a record that could be written in two versions would have two leaves.
    if marks or box is not None:
        return LATEST_VERSION
    return EFFECT_VERSION if effect is not None else WATCH_VERSION if watched else RECORD_VERSION


def hold_members(version: int, call: CallRecord, rest: Rest | None = None) -> None:
    """Raise unless a record has the members of its version, and no others.  SPEC 12.3.

    Args:
        version: Its version.
        call: The kept part of its call.
        rest: The erasable part, or None once that is erased.

    Raises:
        AuditError: It has not.
    """
    effect = call.effect
    if version != version_of(call.marks, call.box, effect, watched=call.watched):
        raise AuditError(f"a decision record of version {version} has not the members of that version")
    if (call.code == EFFECT) != (effect is not None and effect.of != ""):
        raise AuditError(f"only a record of the code {EFFECT} names the decision that it is the effect of")
    if effect is not None and effect.result not in (_RESULTS if effect.of else ("awaited",)):
        raise AuditError("an effect is awaited in the record of its decision, and done, failed or unknown in its own")
    if call.box is not None and call.box not in BOXES:
        raise AuditError(f"a box is one of {', '.join(BOXES)}")
    if rest is not None and rest.external_id is not None and effect is None:
        raise AuditError("only a record with an effect has an external id")
    if call.credential is not None and call.code != EFFECT:
        raise AuditError("only a record of an effect has a credential")
    if rest is not None and (rest.account is None) != (call.credential is None):
        raise AuditError("a record has a credential and its account, or neither")
    if rest is not None and rest.group is not None and not call.watched:
        raise AuditError("only a record of a watched call has a group")


def _whole(facts: Facts, person: _Person) -> ChainFacts:
    subject, meta, caveats = person
    return ChainFacts(**msgspec.structs.asdict(facts), subject=subject, meta=meta, caveats=caveats)


def digest_arguments(args: Mapping[str, Any], form: bytes | None = None) -> tuple[bytes, bytes]:
    """Return the salted digest of a call's arguments for its record.

    Args:
        args: The arguments.  A value of a type that JSON does not have counts by its type alone, so that none of its
            code runs.
        form: The result of ``form_of``, if the caller has it.

    Returns:
        SHA-256 over salt and ``form_of``, empty if there is no such JSON; and the 16-byte salt.
    """
    salt = new_salt()
    try:
        return sha256_of(salt, form if form is not None else form_of(args)), salt
    except RequestError:
        return b"", salt


def form_of(args: Mapping[str, Any]) -> bytes:
    """Return arguments as RFC 8785 JSON, with the type's name in parentheses for a value that JSON does not have.

    Args:
        args: The call's arguments.

    Raises:
        RequestError: The arguments have no such form: see ``jcs``.
    """
    try:
        flat = flat_jcs(args)
        if flat is not None:
            return flat
        raw = _JSON.encode(args)
        if b"null" in raw and _has_nan(args):
            raise RequestError("NaN and infinities are not JSON numbers")
        return jcs(msgspec.json.decode(raw))  # values of other types are texts there
    except _NO_JSON as error:
        raise RequestError("the arguments have no JSON form") from error


def _has_nan(args: Mapping[str, Any]) -> bool:
    """Return whether there is a float that JSON has no number for; the encoder writes null."""
    level: list[Any] = [args]
    while level:  # no recursion: a caller chooses how deep arguments nest
        inner: list[Any] = []
        for container in level:
            for value in container.values() if isinstance(container, Mapping) else container:
                if isinstance(value, float) and not math.isfinite(value):
                    return True
                if isinstance(value, list | tuple | dict):
                    inner.append(value)
        level = inner
    return False


def keep_arguments(args: Mapping[str, Any]) -> bytes:
    """Return ``form_of`` the arguments, for the record; empty if there is none or it is too long."""
    try:
        raw = form_of(args)
    except RequestError:
        return b""
    return raw if len(raw) <= MAX_ARGUMENTS_BYTES else b""


_SALTS: Final[deque[bytes]] = deque()


def new_salt() -> bytes:
    """Return 16 random bytes, never returned before."""
    # One read from the kernel serves many calls.
    try:
        return _SALTS.pop()
    except IndexError:
        pool = os.urandom(SALT_BYTES * _SALTS_AT_ONCE)
        _SALTS.extend([pool[at : at + SALT_BYTES] for at in range(SALT_BYTES, len(pool), SALT_BYTES)])
        return pool[:SALT_BYTES]


at_fork(after_in_child=_SALTS.clear)  # a child must not return its parent's salts again
