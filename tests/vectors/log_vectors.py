# SPDX-License-Identifier: Apache-2.0
"""A small log in the bytes of LOG 1, written from the specifications alone: it shares no code with ``arx_caps``.

``files`` are the log's own, with what a reader checks them with; ``cases`` are proof files and what comes of them.
"""

import hashlib
import json
from base64 import b64encode
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.vectors import naive_tree

ORIGIN, WITNESS = "mint.example/acme/log", "witness.example/w1"
LOG_SEED, WITNESS_SEED, OTHER_SEED = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32  # used nowhere else
SEEN_AT = 1_800_000_000
SIZE = 300
OLDER = (0, 1, 2, 7, 255, 256, 299)


def body(index: int) -> bytes:
    """The body of a record: whatever is about a person."""
    return msgpack.packb([[["https://id.example", f"person {index % 9}"], []], index])


def kept(index: int) -> bytes:
    """The kept part of a record, which ends with the digest of its body."""
    return msgpack.packb([2, "orders@host", "b", index + 1, f"event {index}", hashlib.sha256(body(index)).digest()])


RECORDS = [kept(index) for index in range(SIZE)]


def b64(raw: bytes) -> str:
    """Base64, RFC 4648 4."""
    return b64encode(raw).decode()


def vkey(name: str, kind: int, seed: bytes) -> tuple[str, bytes]:
    """A verifier key's text, and its id."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]
    return f"{name}+{key_id.hex()}+{b64(bytes([kind]) + public)}", key_id


def line(name: str, kind: int, seed: bytes, text: str) -> str:
    """A signature line; of a witness where the kind is 4."""
    key, message, before = Ed25519PrivateKey.from_private_bytes(seed), text.encode(), b""
    if kind == 4:
        message = f"cosignature/v1\ntime {SEEN_AT}\n".encode() + message
        before = SEEN_AT.to_bytes(8, "big")
    return f"— {name} {b64(vkey(name, kind, seed)[1] + before + key.sign(message))}\n"


def checkpoint(size: int, *, origin: str = ORIGIN, seed: bytes = LOG_SEED, root: bytes | None = None) -> str:
    """A checkpoint, cosigned."""
    text = f"{origin}\n{size}\n{b64(naive_tree.mth(RECORDS[:size]) if root is None else root)}\n"
    return f"{text}\n{line(origin, 1, seed, text)}{line(WITNESS, 4, WITNESS_SEED, text)}"


def files() -> dict[str, bytes]:
    """The log's files by path, and beside them what is needed to check them."""
    blocks = [RECORDS[:256], RECORDS[256:]]
    leaves = [b"".join(naive_tree.mth([record]) for record in block) for block in blocks]
    bundles = [b"".join(len(each).to_bytes(2, "big") + each for each in block) for block in blocks]
    proofs = [
        {"old": old, "size": SIZE, "proof": [b64(each) for each in (naive_tree.proof(old, RECORDS) if old else [])]}
        for old in OLDER
    ]
    made = {
        "checkpoint": checkpoint(SIZE).encode(),
        "tile/0/000": leaves[0],
        "tile/0/001.p/44": leaves[1],
        "tile/1/000.p/1": naive_tree.mth(blocks[0]),
        "tile/entries/000": bundles[0],
        "tile/entries/001.p/44": bundles[1],
        "log.vkey": vkey(ORIGIN, 1, LOG_SEED)[0].encode() + b"\n",
        "witness.vkey": vkey(WITNESS, 4, WITNESS_SEED)[0].encode() + b"\n",
        "consistency.json": json.dumps(proofs, indent=1).encode() + b"\n",
        "key-changes.json": json.dumps(change_cases(), indent=1, ensure_ascii=True).encode() + b"\n",
        "proofs.json": json.dumps(cases(), indent=1, ensure_ascii=True).encode() + b"\n",
    }
    return made | {f"older/{size}": checkpoint(size).encode() for size in OLDER}


def proof(index: int, **changes: Any) -> str:
    """A proof file."""
    record = [changes.get("kept", RECORDS[index]), changes.get("body", body(index))]
    path = changes.get("path", naive_tree.path(index, RECORDS))
    lines = ["c2sp.org/tlog-proof@v1", f"extra {b64(msgpack.packb(record))}", f"index {changes.get('at', index)}"]
    return "\n".join([*lines, *map(b64, path)]) + "\n\n" + changes.get("note", checkpoint(SIZE))


def cases() -> list[dict[str, str]]:
    """Proof files and what comes of them: ``holds``, ``tampered``, or ``malformed``; most do not hold."""
    path, good = naive_tree.path(299, RECORDS), proof(299)
    flipped = bytes([path[0][0] ^ 1]) + path[0][1:]
    forged = checkpoint(SIZE).replace(f"\n{SIZE}\n", f"\n{SIZE + 1}\n")
    rows = [
        ("of the first record", "holds", proof(0)),
        ("of the last record", "holds", good),
        ("of the last record of a full tile, without its body", "holds", proof(255, body=None)),
        ("another record in its place", "tampered", proof(299, kept=RECORDS[298], body=body(298))),
        ("another record's body", "tampered", proof(299, body=body(0))),
        ("an empty body, which is not none", "tampered", proof(299, body=b"")),
        ("another index", "tampered", proof(299, at=298)),
        ("an index beyond the log", "tampered", proof(299, at=300)),
        ("a path with one bit changed", "tampered", proof(299, path=[flipped, *path[1:]])),
        ("a path without its last hash", "tampered", proof(299, path=path[:-1])),
        ("a path with a hash too many", "tampered", proof(299, path=[*path, path[0]])),
        ("a path in the wrong order", "tampered", proof(0, path=naive_tree.path(0, RECORDS)[::-1])),
        ("an inner node as a leaf", "tampered", proof(0, path=naive_tree.path(0, RECORDS)[1:])),
        ("another root, signed by the log", "tampered", proof(299, note=checkpoint(SIZE, root=b"\0" * 32))),
        ("an older checkpoint, without the record", "tampered", proof(299, note=checkpoint(299))),
        ("a checkpoint that was altered", "tampered", proof(299, note=forged)),
        ("a checkpoint of another key", "tampered", proof(299, note=checkpoint(SIZE, seed=OTHER_SEED))),
        ("a checkpoint of another log", "tampered", proof(299, note=checkpoint(SIZE, origin="else.example/log"))),
        ("another version", "malformed", good.replace("@v1", "@v2")),
        ("a number with a leading zero", "malformed", good.replace("index 299", "index 0299")),
        ("no index", "malformed", good.replace("index 299\n", "")),
        ("no record", "malformed", "\n".join(each for each in good.split("\n") if not each.startswith("extra"))),
        ("a hash of 31 bytes", "malformed", proof(299, path=[path[0][:31], *path[1:]])),
        ("base64 in a second spelling", "malformed", good.replace("=\n\n— ", "\n\n— ", 1)),
        ("no checkpoint", "malformed", good.partition("\n\n")[0] + "\n\n"),
        ("no signature", "malformed", good.partition("\n\n— ")[0] + "\n\n"),
    ]
    return [{"comment": comment, "spec": "LOG 1.4", "expect": expect, "proof": text} for comment, expect, text in rows]


def change(old: bytes = LOG_SEED, new: bytes = OTHER_SEED, **changes: Any) -> str:
    """The proof file of a change of the log's key, whose record comes after five others, or ``before``."""
    by, to = vkey(ORIGIN, 1, old)[0], vkey(changes.get("to", ORIGIN), 1, new)[0]
    text = changes.get("text", f"arx/log-key-change/1\n{by}\n{to}\n")
    signature = b64(Ed25519PrivateKey.from_private_bytes(changes.get("seed", old)).sign(text.encode()))
    values = changes.get("values", [["new", to], ["old", by], ["signature", signature]])
    kind = changes.get("kind", "log.key_changed")
    event = ["event", changes.get("source", "log"), 1, SEEN_AT * 1000, kind, "host:uid-0", values, b"\x77" * 32]
    at = changes.get("before", 5)
    records = [*RECORDS[:at], msgpack.packb(event), *RECORDS[at : at + changes.get("after", 0)]]
    text = f"{ORIGIN}\n{len(records)}\n{b64(naive_tree.mth(records))}\n"
    note = f"{text}\n{line(ORIGIN, 1, changes.get('signer', old), text)}{line(WITNESS, 4, WITNESS_SEED, text)}"
    return proof(at, kept=records[at], body=None, path=naive_tree.path(at, records), note=note)


def change_cases() -> list[dict[str, Any]]:
    """Changes and what a reader of the first key trusts: the next keys, or ``tampered``, ``malformed``."""
    third, new = b"\x44" * 32, vkey(ORIGIN, 1, OTHER_SEED)[0]
    good, unsigned = change(), [["new", new], ["old", vkey(ORIGIN, 1, LOG_SEED)[0]]]
    swapped = f"arx/log-key-change/1\n{new}\n{vkey(ORIGIN, 1, LOG_SEED)[0]}\n"
    rows: list[tuple[str, list[bytes] | str, list[str]]] = [
        ("no change", [], []),
        ("one change", [OTHER_SEED], [good]),
        ("a change of another key, which is skipped", [], [change(OTHER_SEED, third)]),
        ("two changes", [OTHER_SEED, third], [good, change(OTHER_SEED, third, before=8)]),
        ("one signed by a key that its record does not name", "tampered", [good, change(signer=OTHER_SEED, before=8)]),
        ("a second change that is not later", "tampered", [good, change(OTHER_SEED, third)]),
        ("a record after it", "tampered", [change(after=1)]),
        ("a record without a signature", "malformed", [change(values=unsigned)]),
        ("a further value", "malformed", [change(values=[*unsigned, ["signature", ""], ["stolen", True]])]),
        ("a signature by the new key", "tampered", [change(seed=OTHER_SEED)]),
        ("a signature of the reverse change", "tampered", [change(text=swapped)]),
        ("a key of another log", "tampered", [change(to="else.example/log")]),
        ("the same key", "tampered", [change(new=LOG_SEED)]),
        ("another kind of record", "malformed", [change(kind="log.pruned")]),
        ("a record of the mint, not of the log", "malformed", [change(source="mint/1")]),
        ("a checkpoint that was altered", "tampered", [good.replace("\n6\n", "\n7\n")]),
    ]
    return [
        {
            "comment": comment,
            "spec": "LOG 1.12",
            "expect": expect if isinstance(expect, str) else [vkey(ORIGIN, 1, seed)[0] for seed in expect],
            "changes": changes,
        }
        for comment, expect, changes in rows
    ]
