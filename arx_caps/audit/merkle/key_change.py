# SPDX-License-Identifier: Apache-2.0
"""Changes of a log's key: the record that announces the next one, and how a reader follows it.  LOG 1.12."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import LOG, Signature, Signer, VerifierKey, bytes64, text64
from arx_caps.audit.merkle.proof import MAX_PROOF_BYTES, RecordProof

CHANGED_KIND: Final = "log.key_changed"
KEY_CHANGES: Final = "key-changes"  # the file of a log's changes, beside its checkpoint
_SCHEMA: Final = "arx/log-key-changes/1"
_HEADER: Final = "arx/log-key-change/1"
_MAX_CHANGES: Final = 64


class _Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values of an announced change, as they are in its record."""

    new: str
    old: str
    signature: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    changes: tuple[str, ...]


_KEPT: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(
    tuple[Literal["event"], Literal["log"], int, int, str, str, list[tuple[str, Any]], bytes]
)


def announce(old: Signer, new: VerifierKey) -> dict[str, str]:
    """Return the values of the record that announces the next key.

    Args:
        old: The key that signs until then.
        new: The next key.
    """
    # A signature of its own: the mint signs each record of its database, so without it a writer of that database
    # would choose the log's next key.
    signature = old.sign(_text(old.key, new))
    return {"new": str(new), "old": str(old.key), "signature": text64(signature.blob)}


def follow_changes(key: VerifierKey, changes: Sequence[str], witnesses: Sequence[VerifierKey] = ()) -> LogKeys:
    """Return the keys that announced changes lead to.

    Args:
        key: The key that the reader trusts.
        changes: Proof files of changes, in their order; those before this key are skipped.
        witnesses: Keys of witnesses, each of which must have cosigned each change.

    Raises:
        NoteError: A change is malformed.
        TamperedError: A change by a trusted key is not what that key signed.
        IncompleteError: A witness has not cosigned a change.
    """
    keys = LogKeys.of(key)
    for text in changes:
        proof = RecordProof.parse(text.encode())
        if not any(keys.key.owns(signature) for signature in proof.note.signatures):
            continue
        signed = proof.check(keys.key, witnesses)
        size = signed.checkpoint.size
        keys.require_turn(keys.key, size)
        new = _read(proof, keys.key)
        # The old key signs nothing after the record of its change, so that record is the last one.
        if proof.index != size - 1:
            raise TamperedError(f"the change of the key of {key.name} is not the last record that its key signed")
        missing = [witness.name for witness in witnesses if witness not in signed.seen]
        if missing:
            raise IncompleteError(f"{missing[0]} has not cosigned the change of the key of {key.name}")
        keys = keys.then(new, size, text)
    return keys


def announced_heads(keys: LogKeys) -> list[Checkpoint]:
    """Return the last checkpoint of each key that announced the next one."""
    return [Checkpoint.parse(RecordProof.parse(era.change.encode()).note.text) for era in keys.eras if era.change]


def encode_changes(keys: LogKeys) -> bytes | None:
    """Return the file of a log's announced changes; None without any."""
    changes = tuple(era.change for era in keys.eras if era.change is not None)
    return msgspec.json.encode(_File(_SCHEMA, changes)) + b"\n" if changes else None


def read_changes(raw: bytes | None) -> tuple[str, ...]:
    """Return the proof files of a file of changes, not verified; none without a file.

    Raises:
        NoteError: It is malformed.
    """
    if raw is None:
        return ()
    try:
        file = msgspec.json.decode(raw[: _MAX_CHANGES * MAX_PROOF_BYTES], type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoteError("malformed file of key changes") from error
    if file.schema != _SCHEMA or len(file.changes) > _MAX_CHANGES:
        raise NoteError(f"malformed file of key changes: expected {_SCHEMA} and at most {_MAX_CHANGES} changes")
    return file.changes


def _text(old: VerifierKey, new: VerifierKey) -> str:
    return f"{_HEADER}\n{old}\n{new}\n"


def _read(proof: RecordProof, old: VerifierKey) -> VerifierKey:
    """Return the next key of a change whose record is the log's."""
    try:
        *_, kind, _, named, _ = _KEPT.decode(proof.kept)
        if kind != CHANGED_KIND:
            raise NoteError(f"not a change of a key: expected the record {CHANGED_KIND}, got another")
        values = msgspec.convert(dict(named), _Values)
        new = VerifierKey.parse(values.new)
    except msgspec.MsgspecError as error:
        raise NoteError("malformed change of a key") from error
    if values.old != str(old) or (new.name, new.kind) != (old.name, LOG) or new == old:
        raise TamperedError(f"the change of the key of {old.name} is of another log or key")
    old.check(_text(old, new), Signature(old.name, old.key_id, bytes64(values.signature, "the change's signature")))
    return new
