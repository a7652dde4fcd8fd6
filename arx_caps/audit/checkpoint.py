# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what a log says of itself, signed, and who has seen it (c2sp.org/tlog-checkpoint).  SPEC 17.2.

A checkpoint names the log, its size and its root.  A log signs no two that do not continue each other; witnesses
cosign those that continue what they saw before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from arx_caps.audit.errors import NoteError, TamperedError
from arx_caps.audit.note import (
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
    """One state of a log, not believed before its signature is.

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
        """Read a checkpoint's text.

        Raises:
            NoteError: It is not one.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() != "" or not all(lines):
            raise NoteError("a checkpoint has three lines or more, none of them empty")
        return cls(lines[0], decimal(lines[1], "a checkpoint's size"), hashes64(lines[2:3])[0], tuple(lines[3:]))

    def text(self) -> str:
        """Write the text that is signed."""
        lines = (self.origin, str(self.size), text64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def sign(self, signer: Signer) -> Note:
        """Return the checkpoint as a note that its log signed.

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
    """A checkpoint that a trusted log's key has signed; ``open_checkpoint`` makes it.

    Attributes:
        checkpoint: What it says.
        note: The note, with all its signatures.
        seen: The trusted witnesses that cosigned it, each with the time, in seconds since the epoch.
    """

    checkpoint: Checkpoint
    note: Note
    seen: Mapping[VerifierKey, int]


def open_checkpoint(raw: bytes | Note, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> SignedCheckpoint:
    """Read a checkpoint and believe it.

    Args:
        raw: The note.
        key: The log's key, got from elsewhere than the log's files.
        witnesses: Keys of witnesses; who of them cosigned is told, what is asked of them is the caller's.

    Raises:
        NoteError: It is no checkpoint, or a key is not of the kind it is given for.
        TamperedError: The log's key did not sign it, or a signature of one of these keys does not verify.
    """
    if key.kind != LOG or any(witness.kind != WITNESS for witness in witnesses):
        raise NoteError("a log's key and a witness's key are of two kinds, and one was given for the other")
    note = Note.parse(raw) if isinstance(raw, bytes) else raw
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != key.name:
        raise TamperedError(f"this is a checkpoint of {checkpoint.origin}, not of {key.name}")
    by = note.verified((key, *witnesses))
    if key not in by:
        raise TamperedError(f"the key of {key.name} has not signed this checkpoint")
    return SignedCheckpoint(checkpoint, note, {each: at for each, at in by.items() if at is not None})


def cosign(note: Note, witness: Signer, at: int) -> Signature:
    """Sign that a checkpoint was seen.

    Args:
        note: A checkpoint that was found to continue the one before.
        witness: The witness's key.
        at: The time, in seconds since the epoch.
    """
    Checkpoint.parse(note.text)
    return witness.sign(note.text, at)
