# SPDX-License-Identifier: Apache-2.0
"""Proof files: one record and its inclusion proof (c2sp.org/tlog-proof).  LOG 1.4.

The log's key alone is enough to verify one, offline.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from arx_caps.audit.merkle.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import Note, VerifierKey, bytes64, decimal, hashes64, text64
from arx_caps.audit.merkle.tree import MAX_PROOF, check_inclusion, leaf_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_PROOF_BYTES: Final = 512 * 1024
_DIGEST: Final = b"\xc4\x20"  # MessagePack: 32 bytes follow


# The record is in the file's `extra` line, which nothing signs.  It is authentic because its kept part is a leaf under
# the signed root, and names the body's digest.
@dataclass(frozen=True, slots=True)
class RecordProof:
    """The content of a proof file, not verified before ``check``.

    Attributes:
        kept: The record's kept part, byte for byte as it was logged.
        body: Its body, or None if that was erased or withheld.
        index: Its index in the log.
        path: The hashes from its sibling up.
        note: The log's checkpoint.
    """

    kept: bytes
    body: bytes | None
    index: int
    path: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a proof file.

        Raises:
            NoteError: It is malformed, or contains no record.
        """
        if len(raw) > MAX_PROOF_BYTES:
            raise NoteError(f"the proof file is too long: expected at most {MAX_PROOF_BYTES} bytes, got {len(raw)}")
        head, separator, note = raw.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise NoteError("malformed proof file: expected ASCII before the checkpoint") from error
        if not separator or lines[0] != HEADER:
            raise NoteError(f"malformed proof file: expected {HEADER} first, and an empty line before the checkpoint")
        if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
            raise NoteError("malformed proof file: expected an extra line with the record, then an index line")
        # A tree of 2^63 records needs no more hashes.
        if len(lines) - 3 > MAX_PROOF:
            raise NoteError(f"malformed proof file: expected at most {MAX_PROOF} hashes, got {len(lines) - 3}")
        kept, body = _record(bytes64(lines[1].removeprefix("extra "), "the record"))
        index = decimal(lines[2].removeprefix("index "), "the index")
        return cls(kept, body, index, tuple(hashes64(lines[3:])), Note.parse(note))

    def encode(self) -> bytes:
        """Return the proof file's bytes."""
        record = text64(msgspec.msgpack.encode((self.kept, self.body)))
        lines = (HEADER, f"extra {record}", f"index {self.index}", *map(text64, self.path))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()

    def check(self, key: VerifierKey | LogKeys, witnesses: Sequence[VerifierKey] = ()) -> SignedCheckpoint:
        """Verify offline that the record is in the log.

        Args:
            key: The log's key, or its keys.
            witnesses: Keys of witnesses; a missing cosignature is no error.

        Returns:
            The verified checkpoint, and the witnesses that cosigned it.

        Raises:
            NoteError: The checkpoint is malformed.
            TamperedError: A signature or the path does not verify, or the body is another record's.
        """
        signed = open_checkpoint(self.note, key, witnesses)
        self.check_under(signed)
        return signed

    def check_under(self, signed: SignedCheckpoint) -> None:
        """Verify that the record is in the log, under a checkpoint that was verified before.

        Args:
            signed: The verified checkpoint.

        Raises:
            TamperedError: The proof has another checkpoint, or does not verify.
        """
        # A proof for another size would fail below, with an error that looks like a changed record.
        if self.note != signed.note:
            raise TamperedError(f"record {self.index} is proven under another checkpoint", self.index)
        head = signed.checkpoint
        # The path first: the body's digest is authentic only as a part of a proven record.
        check_inclusion(leaf_hash(self.kept), self.index, head.size, self.path, head.root)
        check_body(self.kept, self.body, self.index)


def check_body(kept: bytes, body: bytes | None, index: int) -> None:
    """Verify that a body is that of its record, whose kept part ends with the body's digest.  LOG 1.1.

    Args:
        kept: The record's kept part.
        body: The body; None is accepted.
        index: The record's index, for the error.

    Raises:
        TamperedError: It is another record's body.
    """
    if body is not None and not kept.endswith(_DIGEST + hashlib.sha256(body).digest()):
        raise TamperedError(f"the body of record {index} is not the one that was logged", index)


def _record(raw: bytes) -> tuple[bytes, bytes | None]:
    try:
        return msgspec.msgpack.decode(raw, type=tuple[bytes, bytes | None])
    except msgspec.MsgspecError as error:
        raise NoteError("malformed proof file: its record is not a pair of kept part and body") from error
