# SPDX-License-Identifier: Apache-2.0
"""Small logs for tests: fixed keys, records of known bytes, files in a folder."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from arx_caps.audit.merkle import note, tree
from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.selection import end_line, head_line, record_line
from arx_caps.audit.merkle.tiles import TileReader, TileWriter, fetch_from, leaf_of

ORIGIN = "mint.example/acme/log"
AT_S = 1_800_000_000


def signer(seed: int, name: str = ORIGIN, kind: int = note.LOG) -> note.Signer:
    """A key that is the same in every run."""
    return note.Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), kind)


LOG = signer(1)
OTHER = signer(2)
WITNESS = signer(3, "witness.example/w1", note.WITNESS)
STRANGER = signer(4, "witness.example/w2", note.WITNESS)


def body(number: int, salt: str = "") -> bytes:
    """The body of one of ``records``."""
    return f"body {salt}{number} ".encode() + b"." * (number % 5)


def records(count: int, salt: str = "") -> list[bytes]:
    """Kept parts of different lengths; each ends with the digest of its body."""
    return [
        msgspec.msgpack.encode((2, f"record {salt}{number}", "." * (number % 7), sha256(body(number, salt)).digest()))
        for number in range(count)
    ]


class Log(NamedTuple):
    """A log's files in a folder, and what they were made from."""

    folder: Path
    records: list[bytes]

    @property
    def size(self) -> int:
        """How many records there are."""
        return len(self.records)

    @property
    def reader(self) -> TileReader:
        """A reader of the files."""
        return TileReader(fetch_from(self.folder), self.size)

    @property
    def checkpoint(self) -> bytes:
        """The checkpoint of all records."""
        return checkpoint_of(self.records)

    @property
    def published(self) -> Path:
        """The checkpoint's file."""
        return self.folder / CHECKPOINT


def checkpoint_of(kept: list[bytes], by: note.Signer = LOG, *witnesses: note.Signer) -> bytes:
    """A signed checkpoint over records."""
    root = tree.Frontier.of(map(tree.leaf_hash, kept)).root()
    made = Checkpoint(by.key.name, len(kept), root).sign(by)
    return made.signed(*(each.sign(made.text, AT_S) for each in witnesses)).encode()


def selection_of(under: note.Note, proofs: Iterable[RecordProof]) -> bytes:
    """A selection of records that are proven under one checkpoint, as ``arx audit export`` writes it."""
    lines = [
        record_line(
            each.index,
            note.text64(each.kept),
            None if each.body is None else note.text64(each.body),
            [*map(note.text64, each.path)],
        )
        for each in proofs
    ]
    return b"".join([head_line(under.encode().decode()), *lines, end_line(len(lines))])


def write(folder: Path, kept: list[bytes]) -> Log:
    """Write a log."""
    writer = TileWriter(folder, durable=False)
    writer.append(map(leaf_of, kept))
    writer.flush()
    log = Log(folder, kept)
    writer.publish(log.checkpoint)
    return log
