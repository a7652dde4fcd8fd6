# SPDX-License-Identifier: Apache-2.0
"""Multiply a log for a benchmark: its rows again and again, at later times and of other sessions.

Rows are copied by the database, which is ten times as fast as taking batches.  A copy's bytes are those of its
original, so that its leaf and its proof are right; its index columns name a session, tasks and delegations of its own.
Searches, totals and proofs work as on a log of batches; ``arx audit check`` fails.
"""

from hashlib import sha256
from typing import Any

from sqlalchemy import select, text, update

from arx_caps.audit.merkle.tree import leaf_hash
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import NODE, RECORD, STATE
from arx_caps.audit.store.time_totals import add_times
from benchmarks.measure import say

_STRIDE = 100_000
_NAMED = ("ref", "session", "task")
_RECORDS = text(
    "INSERT INTO log_record (idx, at_ms, node, source, sequence, outcome, code, tool, kept, body) "
    "SELECT idx + :rows, at_ms + :later, node + :nodes, source, sequence + :rows, outcome, code, tool, kept, body "
    "FROM log_record WHERE idx >= :start AND idx < :end ORDER BY idx"
)
_BATCHES = text(
    "INSERT INTO log_batch (idx, source, first, last, taken_ms, since_ms, until_ms) SELECT idx + :rows, source, "
    "first + :rows, last + :rows, taken_ms + :later, since_ms + :later, until_ms + :later FROM log_batch "
    "WHERE idx < :size"
)


def multiply(store: LogStore, size: int, records: int, step_ms: float) -> None:
    """Append copies of a log's first records, one after the other, until it has enough records.

    It continues an earlier call that was ended.

    Args:
        store: The log, on SQLite; every record that is copied is in a checkpoint.
        size: Number of records that are copied.
        records: Number of records that the log must have at the end.
        step_ms: Time between two records, ms.
    """
    with store.reading() as c:
        had, nodes = c.execute(select(STATE.c.size, STATE.c.nodes)).one()
        kept = c.execute(select(RECORD.c.kept).where(RECORD.c.idx < size).order_by(RECORD.c.idx)).scalars()
        hashes = [leaf_hash(bytes(leaf)) for leaf in kept]
    if had >= records:
        return
    nodes //= had // size
    copies = -(-records // size) - 1
    for copy in range(had // size, copies + 1):
        say(f"copy {copy} of {copies}, {size:,} records")
        with store.writing() as log:
            c = log.connection
            shift = {"rows": copy * size, "nodes": copy * nodes, "later": int(copy * size * step_ms), "size": size}
            rows = c.execute(select(*NODE.c).where(NODE.c.id <= nodes)).mappings().all()
            c.execute(NODE.insert(), [_node(dict(row), copy, shift) for row in rows])
            for start in range(0, size, _STRIDE):
                c.execute(_RECORDS, {**shift, "start": start, "end": min(size, start + _STRIDE)})
            c.execute(_BATCHES, shift)
            for start in range(copy * size, (copy + 1) * size, _STRIDE):
                add_times(c, start, min((copy + 1) * size, start + _STRIDE))
            log.tree.extend(hashes)
            c.execute(update(STATE).values(counted=log.tree.size))
            log._count = (copy + 1) * nodes  # as if the transaction had made them


def renamed(name: str, copy: int) -> str:
    """Return the name of a copy's session, task or delegation."""
    at = 2 if name[:2] in ("s-", "t-") else 0
    return name[:at] + str(copy) + name[at + 1 :] if name[at : at + 1] == "0" else f"{name}{copy}" if name else name


def _node(row: dict[str, Any], copy: int, shift: dict[str, int]) -> dict[str, Any]:
    path = bytes(row["path"])
    ids = [int.from_bytes(path[at : at + 8], "big") + shift["nodes"] for at in range(0, len(path), 8)]
    key = sha256(bytes(row["key"]) + bytes([copy])).digest()
    moved = {name: row[name] + shift["later"] for name in ("first_ms", "last_ms")}
    parent = None if row["parent"] is None else row["parent"] + shift["nodes"]
    return (
        row
        | moved
        | {name: renamed(str(row[name]), copy) for name in _NAMED}
        | {
            "id": row["id"] + shift["nodes"],
            "path": b"".join(each.to_bytes(8, "big") for each in ids),
            "parent": parent,
            "key": key,
        }
    )
