# SPDX-License-Identifier: Apache-2.0
"""A proof file: one record, and that it is in the log (c2sp.org/tlog-proof).  SPEC 17.4.

The record's bytes ride in the file's ``extra`` line, which nobody vouches for: what counts is that their hash is a leaf
under a signed root.  So the file is checked with the log's key and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from arx_caps.audit.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.errors import NoteError
from arx_caps.audit.note import Note, VerifierKey, bytes64, decimal, hashes64, text64
from arx_caps.audit.tree import MAX_PROOF, check_inclusion, leaf_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_PROOF_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof file's content, nothing of it believed until ``check``.

    Attributes:
        record: The record's very bytes.
        index: Its index in the log.
        path: The hashes from its sibling up.
        note: The log's checkpoint.
    """

    record: bytes
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
        record = bytes64(lines[1].removeprefix("extra "), "the record")
        index = decimal(lines[2].removeprefix("index "), "the index")
        return cls(record, index, tuple(hashes64(lines[3:])), Note.parse(note))

    def encode(self) -> bytes:
        """Write the proof file."""
        lines = (HEADER, f"extra {text64(self.record)}", f"index {self.index}", *map(text64, self.path))
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
            TamperedError: A signature or the path does not verify.
        """
        signed = open_checkpoint(self.note, key, witnesses)
        head = signed.checkpoint
        check_inclusion(leaf_hash(self.record), self.index, head.size, self.path, head.root)
        return signed
