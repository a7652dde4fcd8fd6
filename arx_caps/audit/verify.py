# SPDX-License-Identifier: Apache-2.0
"""Check a proof, a selection or a log's files offline: with the log's key, and trusting nothing else.  SPEC 17.

What was altered and what is only missing are told apart, and the first record concerned is named as narrowly as the
files allow.  A record is its bytes: they are hashed as they stand and never read.  The files may be an enemy's: work is
bounded by what is there, not by what is claimed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from arx_caps.audit.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from arx_caps.audit.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.note import VerifierKey
from arx_caps.audit.paths import CHECKPOINT
from arx_caps.audit.proof import HEADER, MAX_PROOF_BYTES, Proof
from arx_caps.audit.scan import Scan
from arx_caps.audit.selection import is_selection, read_selection
from arx_caps.audit.tiles import fetch_from

# Told how many records are done, and of how many; of how many is 0 where that is not known.
Progress = Callable[[int, int], None]
_HEAD_BYTES: Final = 64
_TOLD_RECORDS: Final = 1000  # progress is told once in so many


@dataclass(frozen=True, slots=True)
class Checked:
    """What holds.

    Attributes:
        kind: ``proof``, ``selection`` or ``log``.
        checkpoint: The checkpoint that it was checked against.
        seen: The witnesses asked for, with the times of their cosignatures, in seconds since the epoch.
        records: How many records were hashed and found in the log.
        first: Index of the first of them, or None when there are none.
        gone: Ranges, first and last, of records of which only the hash is there, as was allowed.
        proof: Of a proof: what it shows.
    """

    kind: str
    checkpoint: Checkpoint
    seen: Mapping[VerifierKey, int]
    records: int
    first: int | None = None
    gone: tuple[tuple[int, int], ...] = ()
    proof: Proof | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "kind": self.kind,
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "seen": {key.name: at for key, at in self.seen.items()},
            "records": self.records,
            "first": self.first,
            "gone": [list(each) for each in self.gone],
        }


@dataclass(frozen=True, slots=True)
class Trust:
    """What whoever checks knows from elsewhere than what is checked.

    Attributes:
        key: The log's key.
        witnesses: Keys of witnesses; each of them must have cosigned.
        held: A checkpoint seen before, if any; what is checked must continue it.
        since: Records before this index may be gone, as retention takes them.
    """

    key: VerifierKey
    witnesses: Sequence[VerifierKey] = ()
    held: SignedCheckpoint | None = None
    since: int = 0

    def require_witnesses(self, signed: SignedCheckpoint) -> None:
        """Require the witnesses.

        Raises:
            IncompleteError: One of them has not cosigned.
        """
        missing = [key.name for key in self.witnesses if key not in signed.seen]
        if missing:
            raise IncompleteError(f"{missing[0]} has not cosigned this checkpoint")


def verify(path: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Check a file or a folder.

    Args:
        path: A proof file, a selection, or a folder with a log's files.
        trust: What is known from elsewhere.
        progress: Told now and then how far it is.

    Returns:
        What holds.

    Raises:
        TamperedError: Something is not what was signed.
        IncompleteError: Something that belongs to it is not there; what is there holds.
        NoteError: It is none of these.
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
    raise NoteError(f"{path} is no proof, no selection, and no folder of a log")


def verify_proof(path: Path, trust: Trust) -> Checked:
    """Check a proof file; as ``verify``."""
    with path.open("rb") as file:
        proof = Proof.parse(file.read(MAX_PROOF_BYTES + 1))
    signed = proof.check(trust.key, trust.witnesses)
    trust.require_witnesses(signed)
    _compare(signed.checkpoint, trust.held)
    return Checked("proof", signed.checkpoint, signed.seen, 1, proof.index, proof=proof)


def verify_selection(path: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Check an exported selection; as ``verify``."""
    signed: SignedCheckpoint | None = None
    first, count = None, 0
    with path.open("rb") as file:
        for proof in read_selection(file):
            signed = signed or open_checkpoint(proof.note, trust.key, trust.witnesses)
            proof.check_under(signed)
            first, count = proof.index if first is None else first, count + 1
            if count % _TOLD_RECORDS == 0:
                progress(count, 0)
    if signed is None:
        raise IncompleteError("the selection holds no record")
    trust.require_witnesses(signed)
    _compare(signed.checkpoint, trust.held)
    return Checked("selection", signed.checkpoint, signed.seen, count, first)


def verify_log(folder: Path, trust: Trust, progress: Progress = lambda *_: None) -> Checked:
    """Check a log's files, every record and every tile; as ``verify``."""
    fetch = fetch_from(folder)
    raw = fetch(CHECKPOINT)
    if raw is None:
        raise IncompleteError(f"{folder} has no checkpoint")
    signed = open_checkpoint(raw, trust.key, trust.witnesses)  # 1. the log itself says so
    scan = Scan(fetch, signed.checkpoint, trust.held.checkpoint if trust.held else None)
    scan.read(progress)  # 2. every record's bytes are hashed
    scan.hold_to_root()  # 3. they are what was signed, in that order
    scan.hold_tiles()  # 4. so are the tiles from which others build their proofs
    scan.hold_to_held()  # 5. the log continues what was seen before
    trust.require_witnesses(signed)  # 6. others have seen the same
    gone = [(max(first, trust.since), last) for first, last in scan.gone if last >= trust.since]
    if gone:  # 7. nothing is left out
        first, last = gone[0]
        told = f"the records {first} to {last} are gone; their hashes, and all other records, hold"
        raise IncompleteError(f"{told} (--from {last + 1} allows it, where retention took them)")
    return Checked("log", signed.checkpoint, signed.seen, scan.records, scan.first, tuple(scan.gone))


def _compare(head: Checkpoint, held: SignedCheckpoint | None) -> None:
    """Hold a lone checkpoint to one that was seen before, as far as two of them can tell."""
    if held is None:
        return
    if head.size != held.checkpoint.size:
        raise IncompleteError("only the log's files can show that one checkpoint continues another")
    if head.root != held.checkpoint.root:
        raise TamperedError(f"the log has two histories of {head.size} records", 0, max(0, head.size - 1))
