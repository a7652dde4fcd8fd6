# SPDX-License-Identifier: Apache-2.0
"""What an independent implementation says of our log: run by an interpreter that has ``aics-tlog``.

``python oracle.py read FOLDER`` checks a log's files and the proofs beside them, and that altered ones are refused;
``python oracle.py write FOLDER`` writes a log of its own for us to check.  It imports nothing of ARx.
"""

import json
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import aics_tlog as theirs
from aics_tlog.checkpoint import checkpoint_from_note
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def read(folder: Path) -> dict[str, int]:
    """Check everything in a folder; raises, or returns how much it checked."""
    keys = [theirs.parse_vkey((folder / name).read_text().strip()) for name in ("log.vkey", "witness.vkey")]
    head, note = checkpoint_from_note((folder / "checkpoint").read_bytes())
    answer = theirs.verify_checkpoint(note, keys[0], [keys[1]], 1, expected_origin=keys[0].name)
    assert answer.ok, answer
    reader = theirs.FileSystemTileReader(folder)
    audited = theirs.audit_tiles(reader, head.size, head.root)
    assert theirs.tree_root_from_tiles(reader, head.size) == head.root
    proofs = json.loads((folder / "inclusion.json").read_text())
    for given in proofs:
        path, leaf = [b64decode(each) for each in given["path"]], b64decode(given["kept"])
        at = given["index"], head.size
        assert theirs.verify_leaf_inclusion(leaf, *at, path, head.root), given["index"]
        assert theirs.inclusion_proof_from_tiles(reader, *at) == path
        assert theirs.read_entry(reader, *at) == leaf
        assert not theirs.verify_leaf_inclusion(leaf + b".", *at, path, head.root)
    continued = json.loads((folder / "consistency.json").read_text())
    for given in continued:
        old, older = checkpoint_from_note((folder / "older" / str(given["old"])).read_bytes())
        assert theirs.verify_checkpoint(older, keys[0]).ok
        proof = [b64decode(each) for each in given["proof"]]
        sizes = old.size, head.size
        assert theirs.verify_consistency(*sizes, old.root, head.root, proof), given["old"]
        assert theirs.consistency_proof_from_tiles(reader, *sizes) == proof
    files = sorted((folder / "proofs").glob("*"))
    for file in files:
        _prove(file.read_bytes(), keys)
    _refuses(folder, head, note, keys)
    return {"files": len(files)} | {
        "tiles": audited.tiles,
        "bundles": audited.bundles,
        "inclusion": len(proofs),
        "consistency": len(continued),
    }


def _prove(raw: bytes, keys: list[object]) -> None:
    """Check a proof file: read as c2sp.org/tlog-proof says, held to their signatures and their tree."""
    lines, _, signed = raw.partition(b"\n\n")
    begins, extra, index, *path = lines.decode().split("\n")
    head, note = checkpoint_from_note(signed)
    answer = theirs.verify_checkpoint(note, keys[0], [keys[1]], 1, expected_origin=keys[0].name)
    assert (answer.ok, begins) == (True, "c2sp.org/tlog-proof@v1"), answer
    leaf = _kept(b64decode(extra.removeprefix("extra ")))
    at, hashes = int(index.removeprefix("index ")), [b64decode(each) for each in path]
    assert theirs.verify_leaf_inclusion(leaf, at, head.size, hashes, head.root), at


def _kept(record: bytes) -> bytes:
    """Return the leaf that a record begins with: MessagePack, an array of two, the first of them binary."""
    assert record[:1] == b"\x92"
    assert record[1:2] in (b"\xc4", b"\xc5")
    width = record[1] - 0xC3
    return record[2 + width : 2 + width + int.from_bytes(record[2 : 2 + width])]


def _refuses(folder: Path, head: object, note: object, keys: list[object]) -> None:
    """Hold this very check to altered input: an oracle that takes anything proves nothing."""
    forged = theirs.parse_note(note.to_bytes().replace(f"\n{head.size}\n".encode(), f"\n{head.size + 1}\n".encode()))
    assert not theirs.verify_checkpoint(forged, keys[0]).ok
    whole = theirs.FileSystemTileReader(folder)

    class Altered:
        """The log with one record altered."""

        def read_tile(self, level: int, index: int, width: int | None) -> bytes | None:
            return whole.read_tile(level, index, width)

        def read_entry_bundle(self, index: int, width: int | None) -> bytes | None:
            raw = whole.read_entry_bundle(index, width)
            return raw if raw is None or index else raw[:-1] + bytes([raw[-1] ^ 1])

    try:
        theirs.audit_tiles(Altered(), head.size, head.root)
    except theirs.TileVerificationError:
        return
    raise AssertionError("an altered record passed")


def write(folder: Path) -> dict[str, int]:
    """Write a log, a cosigned checkpoint and proofs, all of their making."""
    records = [f"theirs {index}".encode() for index in range(700)]
    theirs.TileWriter(records).write_to(folder)
    tree = theirs.MerkleTree(records)
    key, witness = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"\5", b"\6"))
    head = theirs.Checkpoint("theirs.example/log", len(records), tree.root())
    note = theirs.sign_checkpoint(head, key, head.origin)
    _, line = theirs.sign_cosignature(witness, "theirs.example/w", 1_800_000_000, head.origin, head.size, head.root)
    (folder / "checkpoint").write_text(note.serialise() + f"— {line.name} {_b64(line.key_id + line.signature)}\n")
    (folder / "log.vkey").write_text(theirs.format_vkey(theirs.vkey_from_ed25519(head.origin, key.public_key())))
    (folder / "witness.vkey").write_text(theirs.format_vkey(theirs.cosignature_vkey(line.name, witness.public_key())))
    proofs = [{"old": old, "proof": list(map(_b64, tree.consistency_proof(old)))} for old in (1, 255, 256, 512, 699)]
    (folder / "consistency.json").write_text(json.dumps([p | {"root": _b64(tree.root(p["old"]))} for p in proofs]))
    return {"size": len(records)}


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()


if __name__ == "__main__":
    print(json.dumps({"read": read, "write": write}[sys.argv[1]](Path(sys.argv[2]))))
