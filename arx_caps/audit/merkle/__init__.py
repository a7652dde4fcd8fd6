# SPDX-License-Identifier: Apache-2.0
"""The signed log as files: Merkle tree, checkpoints, tiles, proofs, and their offline verification.  LOG 1.1-1.5."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.merkle.checkpoint import Checkpoint, SignedCheckpoint, cosign, open_checkpoint
    from arx_caps.audit.merkle.delegations import SignedBy, SignedDelegation, check_call, check_delegations, realm_of
    from arx_caps.audit.merkle.errors import DisputedError, IncompleteError, NoteError, TamperedError, WitnessError
    from arx_caps.audit.merkle.keys import make_key, read_signer
    from arx_caps.audit.merkle.mirror import copy_log
    from arx_caps.audit.merkle.note import (
        LOG,
        MAX_NOTE_BYTES,
        WITNESS,
        Note,
        Signature,
        Signer,
        VerifierKey,
        decimal,
        hashes64,
        signature_lines,
        text64,
    )
    from arx_caps.audit.merkle.paths import CHECKPOINT, TILES, WIDTH, Tile, hashes_in
    from arx_caps.audit.merkle.proof import SUFFIX, RecordProof
    from arx_caps.audit.merkle.selection import end_line, head_line, read_selection, record_line
    from arx_caps.audit.merkle.tiles import (
        Leaf,
        TileReader,
        TileWriter,
        fetch_from,
        lacks,
        leaf_of,
        make_leaf,
        prune,
        write_whole,
    )
    from arx_caps.audit.merkle.tree import (
        EMPTY_ROOT,
        HASH_BYTES,
        Frontier,
        check_consistency,
        check_inclusion,
        edge_of,
        leaf_hash,
    )
    from arx_caps.audit.merkle.verification import Trust, verify
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "checkpoint": "Checkpoint SignedCheckpoint cosign open_checkpoint",
            "delegations": "SignedBy SignedDelegation check_call check_delegations realm_of",
            "errors": "DisputedError IncompleteError NoteError TamperedError WitnessError",
            "keys": "make_key read_signer",
            "mirror": "copy_log",
            "note": (
                "LOG MAX_NOTE_BYTES Note Signature Signer VerifierKey WITNESS decimal hashes64 signature_lines text64"
            ),
            "paths": "CHECKPOINT TILES Tile WIDTH hashes_in",
            "proof": "RecordProof SUFFIX",
            "selection": "end_line head_line read_selection record_line",
            "tiles": "Leaf TileReader TileWriter fetch_from lacks leaf_of make_leaf prune write_whole",
            "tree": "EMPTY_ROOT Frontier HASH_BYTES check_consistency check_inclusion edge_of leaf_hash",
            "verification": "Trust verify",
        },
    )

__all__ = [
    "CHECKPOINT",
    "EMPTY_ROOT",
    "HASH_BYTES",
    "LOG",
    "MAX_NOTE_BYTES",
    "SUFFIX",
    "TILES",
    "WIDTH",
    "WITNESS",
    "Checkpoint",
    "DisputedError",
    "Frontier",
    "IncompleteError",
    "Leaf",
    "Note",
    "NoteError",
    "RecordProof",
    "Signature",
    "SignedBy",
    "SignedCheckpoint",
    "SignedDelegation",
    "Signer",
    "TamperedError",
    "Tile",
    "TileReader",
    "TileWriter",
    "Trust",
    "VerifierKey",
    "WitnessError",
    "check_call",
    "check_consistency",
    "check_delegations",
    "check_inclusion",
    "copy_log",
    "cosign",
    "decimal",
    "edge_of",
    "end_line",
    "fetch_from",
    "hashes64",
    "hashes_in",
    "head_line",
    "lacks",
    "leaf_hash",
    "leaf_of",
    "make_key",
    "make_leaf",
    "open_checkpoint",
    "prune",
    "read_selection",
    "read_signer",
    "realm_of",
    "record_line",
    "signature_lines",
    "text64",
    "verify",
    "write_whole",
]
