# SPDX-License-Identifier: Apache-2.0
"""A proof file: one record, and that it is in the log (c2sp.org/tlog-proof).  SPEC 17.4.

The record rides in the file's ``extra`` line, which nobody vouches for: what counts is that its kept part is a leaf
under a signed root, and that this names the body.  So the file is checked with the log's key and nothing else.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from arx_caps.audit.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.errors import NoteError, TamperedError
from arx_caps.audit.note import Note, VerifierKey, bytes64, decimal, hashes64, text64
from arx_caps.audit.tree import MAX_PROOF, check_inclusion, leaf_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_PROOF_BYTES: Final = 512 * 1024
_DIGEST: Final = b"\xc4\x20"  # MessagePack: 32 bytes follow


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof file's content, nothing of it believed until ``check``.

    Attributes:
        kept: The record's kept part, the very bytes that were logged.
        body: Its body, or None where that was erased or is not shown.
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
        """Read a proof file.

        Raises:
            NoteError: It is not one, or carries no record.
        """
        if len(raw) > MAX_PROOF_BYTES:
            raise NoteError(f"a proof file has at most {MAX_PROOF_BYTES // 1024} KiB")
        head, found, note = raw.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise NoteError("a proof's own lines are ASCII") from error
        if not found or lines[0] != HEADER:
            raise NoteError(f"a proof file begins with {HEADER}, and has an empty line before its checkpoint")
        if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
            raise NoteError("this proof has no extra line with the record, or no index")
        if len(lines) - 3 > MAX_PROOF:
            raise NoteError(f"a proof has at most {MAX_PROOF} hashes")
        kept, body = _record(bytes64(lines[1].removeprefix("extra "), "the record"))
        index = decimal(lines[2].removeprefix("index "), "the index")
        return cls(kept, body, index, tuple(hashes64(lines[3:])), Note.parse(note))

    def encode(self) -> bytes:
        """Write the proof file."""
        record = text64(msgspec.msgpack.encode((self.kept, self.body)))
        lines = (HEADER, f"extra {record}", f"index {self.index}", *map(text64, self.path))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()

    def check(self, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> SignedCheckpoint:
        """Verify that the record is in the log, offline.

        Args:
            key: The log's key.
            witnesses: Keys of witnesses; who of them cosigned is told.

        Returns:
            The checkpoint, believed.

        Raises:
            NoteError: The checkpoint is not of its form.
            TamperedError: A signature or the path does not verify, or the body is another record's.
        """
        signed = open_checkpoint(self.note, key, witnesses)
        self.check_under(signed)
        return signed

    def check_under(self, signed: SignedCheckpoint) -> None:
        """Verify that the record is in the log, under a checkpoint that is believed already.

        Raises:
            TamperedError: It is another checkpoint, or the record is not proven.
        """
        if self.note != signed.note:
            raise TamperedError(f"record {self.index} is proven under another checkpoint", self.index)
        head = signed.checkpoint
        check_inclusion(leaf_hash(self.kept), self.index, head.size, self.path, head.root)
        check_body(self.kept, self.body, self.index)


def check_body(kept: bytes, body: bytes | None, index: int) -> None:
    """Verify that a body is that of its record, whose kept part ends with its digest.  SPEC 17.1.

    Raises:
        TamperedError: It is not.
    """
    if body is not None and not kept.endswith(_DIGEST + hashlib.sha256(body).digest()):
        raise TamperedError(f"the body of record {index} is not the one that was logged", index)


def _record(raw: bytes) -> tuple[bytes, bytes | None]:
    try:
        return msgspec.msgpack.decode(raw, type=tuple[bytes, bytes | None])
    except msgspec.MsgspecError as error:
        raise NoteError("the record of this proof is no pair of kept part and body") from error
