# SPDX-License-Identifier: Apache-2.0
"""Verify a proof, a selection or a log's files offline, with the log's key.  LOG 1.

Records are hashed as bytes and never parsed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from arx_caps.audit.merkle.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.key_change import KEY_CHANGES, announced_heads, follow_changes, read_changes
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.proof import HEADER, MAX_PROOF_BYTES, RecordProof
from arx_caps.audit.merkle.scan import Scan
from arx_caps.audit.merkle.selection import is_selection, read_selection
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.merkle.tree import check_consistency

# Receives how many records are done, and of how many; the latter is 0 if it is unknown.
Progress = Callable[[int, int], None]
_HEAD_BYTES: Final = 64
_TOLD_RECORDS: Final = 1000  # records between two calls of progress


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a successful verification.

    Attributes:
        kind: ``proof``, ``selection`` or ``log``.
        checkpoint: The verified checkpoint.
        key: The log's key that signed it: that of ``Trust``, or one that announced changes lead to.
        seen: The given witnesses, with the times of their cosignatures, in seconds since the epoch.
        records: Number of records that were hashed and found in the log.
        first: Index of the first of them, or None.
        gone: Ranges, first and last, of missing records whose hashes remain, as ``Trust.since`` allows.
        proof: The proof, for a proof file.
    """

    kind: str
    checkpoint: Checkpoint
    key: VerifierKey
    seen: Mapping[VerifierKey, int]
    records: int
    first: int | None = None
    gone: tuple[tuple[int, int], ...] = ()
    proof: RecordProof | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "kind": self.kind,
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "key": str(self.key),
            "seen": {key.name: at for key, at in self.seen.items()},
            "records": self.records,
            "first": self.first,
            "gone": [list(gone) for gone in self.gone],
            "body": None if self.proof is None else self.proof.body is not None,
        }


@dataclass(frozen=True, slots=True)
class Trust:
    """Trust anchors obtained out of band.

    Attributes:
        key: The log's key.
        witnesses: Keys of witnesses; each of them must have cosigned.
        held: A checkpoint that was verified before, or None; the log must continue it.
        since: Index before which records may be missing, because they were pruned.
        changes: Proof files of changes of the key, not verified; a log's folder has its own.
    """

    key: VerifierKey
    witnesses: Sequence[VerifierKey] = ()
    held: SignedCheckpoint | None = None
    since: int = 0
    changes: Sequence[str] = ()

    def keys(self, changes: Sequence[str] = ()) -> LogKeys:
        """Return the log's key, and the next ones that it has announced.

        Args:
            changes: Further changes.

        Raises:
            NoteError: A change is malformed.
            TamperedError: A change by a trusted key is not what that key signed.
            IncompleteError: A witness has not cosigned a change.
        """
        return follow_changes(self.key, (*self.changes, *changes), self.witnesses)

    def require_witnesses(self, signed: SignedCheckpoint) -> None:
        """Require the cosignatures of all witnesses.

        Raises:
            IncompleteError: A cosignature is missing.
        """
        missing = [key.name for key in self.witnesses if key not in signed.seen]
        if missing:
            raise IncompleteError(f"{missing[0]} has not cosigned this checkpoint")


def verify(path: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Verify a proof file, a selection or a log's folder.

    Args:
        path: The file or folder; an attacker may have made it.
        trust: Trust anchors.
        progress: Called now and then with how many records are done, of how many.

    Returns:
        The verified facts.

    Raises:
        TamperedError: Something is not what was signed; the first altered record is named as precisely as possible.
        IncompleteError: Something is missing; everything else is what was signed.
        NoteError: It is malformed, or none of these.
        OSError: It cannot be read.
    """
    if path.is_dir():
        return verify_log(path, trust, progress)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if is_selection(head):
        return verify_selection(path, trust, progress)
    if head.startswith(HEADER.encode()):
        return verify_proof(path, trust)
    raise NoteError(f"{path} is not a proof, a selection, or the folder of a log")


def verify_proof(path: Path, trust: Trust) -> Checked:
    """Verify a proof file; as ``verify``."""
    with path.open("rb") as file:
        proof = RecordProof.parse(file.read(MAX_PROOF_BYTES + 1))
    signed = proof.check(trust.keys(), trust.witnesses)
    trust.require_witnesses(signed)
    _compare(signed.checkpoint, trust.held)
    return Checked("proof", signed.checkpoint, signed.by, signed.seen, 1, proof.index, proof=proof)


def verify_selection(path: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Verify an exported selection; as ``verify``."""
    signed: SignedCheckpoint | None = None
    keys, first, count = trust.keys(), None, 0
    with path.open("rb") as file:
        for proof in read_selection(file):
            signed = signed or open_checkpoint(proof.note, keys, trust.witnesses)
            proof.check_under(signed)
            first, count = proof.index if first is None else first, count + 1
            if count % _TOLD_RECORDS == 0:
                progress(count, 0)
    if signed is None:
        raise IncompleteError("the selection holds no record")
    trust.require_witnesses(signed)
    _compare(signed.checkpoint, trust.held)
    return Checked("selection", signed.checkpoint, signed.by, signed.seen, count, first)


def verify_log(folder: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Verify every record and every tile of a log's files; as ``verify``."""
    fetch = fetch_from(folder)
    raw = fetch(CHECKPOINT)
    if raw is None:
        raise IncompleteError(f"{folder} has no checkpoint")
    # The files may be an attacker's: the work is bounded by the existing files, not by the claimed size.
    keys = trust.keys(read_changes(fetch(KEY_CHANGES)))
    signed = open_checkpoint(raw, keys, trust.witnesses)  # 1. the log has signed this checkpoint
    scan = Scan(fetch, signed.checkpoint, trust.held.checkpoint if trust.held else None)
    scan.read(progress)  # 2. every record's bytes are hashed
    scan.compare_root()  # 3. they are what was signed, in that order
    scan.hold_tiles()  # 4. so are the tiles that proofs are made from
    scan.compare_held()  # 5. the log continues the older checkpoint, and the last one of each key before
    _compare_changes(TileReader(fetch, signed.checkpoint.size), signed.checkpoint, keys)
    trust.require_witnesses(signed)  # 6. the witnesses have seen the same log
    gone = [(max(first, trust.since), last) for first, last in scan.gone if last >= trust.since]
    if gone:  # 7. no record is missing
        first, last = gone[0]
        message = f"the records {first} to {last} are gone; their hashes, and all other records, hold"
        raise IncompleteError(f"{message} (--from {last + 1} allows it, where retention took them)")
    return Checked("log", signed.checkpoint, signed.by, signed.seen, scan.records, scan.first, tuple(scan.gone))


def _compare_changes(reader: TileReader, head: Checkpoint, keys: LogKeys) -> None:
    for before in announced_heads(keys):
        if before.size < head.size:
            check_consistency(before.size, before.root, head.size, head.root, reader.consistency(before.size))


def _compare(head: Checkpoint, held: SignedCheckpoint | None) -> None:
    """Compare a checkpoint with one that was verified before, as far as two checkpoints alone allow."""
    if held is None:
        return
    if head.size != held.checkpoint.size:
        raise IncompleteError("only the log's files can show that one checkpoint continues another")
    if head.root != held.checkpoint.root:
        raise TamperedError(f"the log has two histories of {head.size} records", 0, max(0, head.size - 1))
