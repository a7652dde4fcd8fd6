# SPDX-License-Identifier: Apache-2.0
"""The signed log as files: Merkle tree, checkpoints, tiles, proofs, and their offline verification.  LOG 1.1-1.5."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.merkle.checkpoint import Checkpoint as Checkpoint
    from arx_caps.audit.merkle.checkpoint import SignedCheckpoint as SignedCheckpoint
    from arx_caps.audit.merkle.checkpoint import cosign as cosign
    from arx_caps.audit.merkle.checkpoint import open_checkpoint as open_checkpoint
    from arx_caps.audit.merkle.delegations import SignedBy as SignedBy
    from arx_caps.audit.merkle.delegations import SignedDelegation as SignedDelegation
    from arx_caps.audit.merkle.delegations import check_call as check_call
    from arx_caps.audit.merkle.delegations import check_delegations as check_delegations
    from arx_caps.audit.merkle.delegations import realm_of as realm_of
    from arx_caps.audit.merkle.errors import DisputedError as DisputedError
    from arx_caps.audit.merkle.errors import IncompleteError as IncompleteError
    from arx_caps.audit.merkle.errors import NoteError as NoteError
    from arx_caps.audit.merkle.errors import TamperedError as TamperedError
    from arx_caps.audit.merkle.errors import WitnessError as WitnessError
    from arx_caps.audit.merkle.key_change import CHANGED_KIND as CHANGED_KIND
    from arx_caps.audit.merkle.key_change import KEY_CHANGES as KEY_CHANGES
    from arx_caps.audit.merkle.key_change import announce as announce
    from arx_caps.audit.merkle.key_change import encode_changes as encode_changes
    from arx_caps.audit.merkle.key_change import follow_changes as follow_changes
    from arx_caps.audit.merkle.key_change import read_changes as read_changes
    from arx_caps.audit.merkle.keys import make_key as make_key
    from arx_caps.audit.merkle.keys import read_signer as read_signer
    from arx_caps.audit.merkle.log_keys import Era as Era
    from arx_caps.audit.merkle.log_keys import LogKeys as LogKeys
    from arx_caps.audit.merkle.mirror import copy_log as copy_log
    from arx_caps.audit.merkle.mirror import fetch_tile as fetch_tile
    from arx_caps.audit.merkle.note import LOG as LOG
    from arx_caps.audit.merkle.note import MAX_NOTE_BYTES as MAX_NOTE_BYTES
    from arx_caps.audit.merkle.note import WITNESS as WITNESS
    from arx_caps.audit.merkle.note import Note as Note
    from arx_caps.audit.merkle.note import Signature as Signature
    from arx_caps.audit.merkle.note import Signer as Signer
    from arx_caps.audit.merkle.note import VerifierKey as VerifierKey
    from arx_caps.audit.merkle.note import decimal as decimal
    from arx_caps.audit.merkle.note import hashes64 as hashes64
    from arx_caps.audit.merkle.note import signature_lines as signature_lines
    from arx_caps.audit.merkle.note import text64 as text64
    from arx_caps.audit.merkle.paths import CHECKPOINT as CHECKPOINT
    from arx_caps.audit.merkle.paths import TILES as TILES
    from arx_caps.audit.merkle.paths import WIDTH as WIDTH
    from arx_caps.audit.merkle.paths import Tile as Tile
    from arx_caps.audit.merkle.paths import files_of as files_of
    from arx_caps.audit.merkle.paths import hashes_in as hashes_in
    from arx_caps.audit.merkle.proof import SUFFIX as SUFFIX
    from arx_caps.audit.merkle.proof import RecordProof as RecordProof
    from arx_caps.audit.merkle.selection import end_line as end_line
    from arx_caps.audit.merkle.selection import head_line as head_line
    from arx_caps.audit.merkle.selection import read_selection as read_selection
    from arx_caps.audit.merkle.selection import record_line as record_line
    from arx_caps.audit.merkle.tiles import Leaf as Leaf
    from arx_caps.audit.merkle.tiles import TileReader as TileReader
    from arx_caps.audit.merkle.tiles import TileWriter as TileWriter
    from arx_caps.audit.merkle.tiles import fetch_from as fetch_from
    from arx_caps.audit.merkle.tiles import lacks as lacks
    from arx_caps.audit.merkle.tiles import leaf_of as leaf_of
    from arx_caps.audit.merkle.tiles import make_leaf as make_leaf
    from arx_caps.audit.merkle.tiles import prune as prune
    from arx_caps.audit.merkle.tiles import write_whole as write_whole
    from arx_caps.audit.merkle.tree import EMPTY_ROOT as EMPTY_ROOT
    from arx_caps.audit.merkle.tree import HASH_BYTES as HASH_BYTES
    from arx_caps.audit.merkle.tree import Frontier as Frontier
    from arx_caps.audit.merkle.tree import check_consistency as check_consistency
    from arx_caps.audit.merkle.tree import check_inclusion as check_inclusion
    from arx_caps.audit.merkle.tree import edge_of as edge_of
    from arx_caps.audit.merkle.tree import leaf_hash as leaf_hash
    from arx_caps.audit.merkle.verification import Trust as Trust
    from arx_caps.audit.merkle.verification import verify as verify
else:
    open_door(__name__)
