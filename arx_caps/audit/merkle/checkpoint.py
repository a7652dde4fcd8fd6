# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a log's name, size and root, signed by the log and cosigned (c2sp.org/tlog-checkpoint).  LOG 1.2.

Signatures are in ``note``; whether one checkpoint continues another is verified in ``tree``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import (
    LOG,
    WITNESS,
    Note,
    Signature,
    Signer,
    VerifierKey,
    check_name,
    decimal,
    hashes64,
    text64,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a log, not authenticated.

    Attributes:
        origin: The log's name.
        size: Its number of records.
        root: The root of its tree, 32 bytes.
        extensions: Further lines, opaque; ARx writes none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a checkpoint's text.

        Raises:
            NoteError: It is malformed.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() != "" or not all(lines):
            raise NoteError("malformed checkpoint: expected at least three lines, none of them empty")
        return cls(lines[0], decimal(lines[1], "a checkpoint's size"), hashes64(lines[2:3])[0], tuple(lines[3:]))

    def text(self) -> str:
        """Return the text to sign."""
        lines = (self.origin, str(self.size), text64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def sign(self, signer: Signer) -> Note:
        """Return the checkpoint as a note with its log's signature.

        Raises:
            NoteError: The key is not this log's.
        """
        if signer.key.kind != LOG or signer.key.name != self.origin:
            raise NoteError("a checkpoint is signed with the key of its own log")
        check_name(self.origin)
        text = self.text()
        return Note(text, (signer.sign(text),))


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint with a verified signature of its log; ``open_checkpoint`` returns it.

    Attributes:
        checkpoint: The checkpoint.
        note: The note, with all its signatures.
        by: The log's key that signed it.
        seen: The given witnesses that cosigned it, each with the time, in seconds since the epoch.
    """

    checkpoint: Checkpoint
    note: Note
    by: VerifierKey
    seen: Mapping[VerifierKey, int]


def open_checkpoint(
    raw: bytes | Note, key: VerifierKey | LogKeys, witnesses: Sequence[VerifierKey] = ()
) -> SignedCheckpoint:
    """Parse a checkpoint and verify its signatures.

    Args:
        raw: The note.
        key: The log's key, obtained out of band, not from the log's files; or its keys, one of which signs this size.
        witnesses: Keys of witnesses.  A missing cosignature is no error: the caller looks at ``seen``.

    Returns:
        The checkpoint, and the witnesses that cosigned it.

    Raises:
        NoteError: It is no checkpoint, or a key is of the wrong kind.
        TamperedError: The log's key of this size did not sign it, or a signature of one of these keys does not verify.
    """
    keys = key if isinstance(key, LogKeys) else LogKeys.of(key)
    if keys.key.kind != LOG or any(witness.kind != WITNESS for witness in witnesses):
        raise NoteError("wrong kind of key: a log's key and witnesses' keys are not interchangeable; swap them")
    note = Note.parse(raw) if isinstance(raw, bytes) else raw
    checkpoint = Checkpoint.parse(note.text)
    # A key that signs for two logs must not let one pass for the other.
    if checkpoint.origin != keys.key.name:
        raise TamperedError(f"wrong log: expected a checkpoint of {keys.key.name}, got one of {checkpoint.origin}")
    signer = keys.signer_of(note)
    by = note.verified((signer, *witnesses))
    # Any of the keys satisfies `verified`: a witness's cosignature alone does not make this the log's checkpoint.
    if signer not in by:
        raise TamperedError(f"the key of {signer.name} has not signed this checkpoint")
    keys.require_turn(signer, checkpoint.size)
    return SignedCheckpoint(checkpoint, note, signer, {signed_by: at for signed_by, at in by.items() if at is not None})


def cosign(note: Note, witness: Signer, at: int) -> Signature:
    """Return a witness's signature of a checkpoint.

    Args:
        note: A checkpoint that continues the previous one; the caller has verified that.
        witness: The witness's key.
        at: The time, in seconds since the epoch.

    Raises:
        NoteError: The note is no checkpoint.
    """
    # Other notes are signed in this format too: a witness must not sign one of them by its key.
    Checkpoint.parse(note.text)
    return witness.sign(note.text, at)
