# SPDX-License-Identifier: Apache-2.0
"""The log's tables, on SQLite (a file of its own) and PostgreSQL (in the mint's database).  LOG 1, 2.

``log_record`` is the log; the other tables index it, or hold a state.  Times are ms since the Unix epoch.  A record's
index is its place in the Merkle tree: contiguous from 0, never used twice.

*Nodes.*  Each record belongs to a node: a session, a task of it, a delegation, and so on down (``ingest.place`` lists
the kinds).  A node's ``path`` is the 8-byte ids of all nodes from its root to itself.  The nodes below it are those
whose paths begin with its path.  A query finds nodes first, then their records by ``(node, idx)``:

* a session, task, sub-task, link, operator, service: by ``kind`` and ``ref``, and the nodes below;
* an agent, or all agents below it: by ``agent``; a subject: by ``subject``, a target as ``arx kill`` takes it.

*Totals.*  ``allow``, ``deny`` and ``other`` of a node count its own records, not those below it; the sum over a path is
that of a session or a delegate.  Each checkpoint adds them up, not each batch, so that a node in many batches is
written once.  Records from ``counted`` on are not in them yet (``totals``).

*Totals over time.*  ``log_total`` has the same records by minute, hour and day, and by agent, session, tool and reason
(``time_totals``).  A count over an hour reads no record.

*Outcomes.*  ``outcome`` is one of the numbers of ``ingest.entries``.  Refusals, ended work, counts and gaps are above
``ALLOW``: ``outcome > 1`` is the condition of the two partial indexes.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text

from arx_caps.audit.ingest.entries import ALLOW, MAX_CODE

METADATA: Final = MetaData()
SCHEMA: Final = "3"  # grows with each change of a table; missing indexes are made at a start

META: Final = Table(
    "log_meta", METADATA, Column("name", String(32), primary_key=True), Column("value", Text, nullable=False)
)

# One row, which every writer locks first, so that one process writes at a time, on any machine.
STATE: Final = Table(
    "log_state",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),  # of the tree
    Column("edge", LargeBinary, nullable=False),  # its complete subtrees, largest first, 32 bytes each
    Column("nodes", BigInteger, nullable=False),  # number of nodes; their ids count from 1
    Column("first", BigInteger, nullable=False),  # the first record that was not pruned
    Column("counted", BigInteger, nullable=False, server_default="0"),  # the first that is in no total yet
    Column("erasures", BigInteger, nullable=False),  # how often nodes were changed: a change makes caches invalid
)

NODE: Final = Table(
    "log_node",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("path", LargeBinary, nullable=False, unique=True),
    Column("key", LargeBinary, nullable=False, unique=True),  # SHA-256 over its whole path: ``RecordPlace.key``
    Column("parent", BigInteger),
    Column("kind", String(16), nullable=False),
    Column("ref", Text, nullable=False),
    Column("name", Text, nullable=False),  # the agent's path, or the name that the previous holder gave
    Column("session", Text, nullable=False),  # empty without one
    Column("task", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("subject", String(64)),
    Column("allow", BigInteger, nullable=False),
    Column("deny", BigInteger, nullable=False),
    Column("other", BigInteger, nullable=False),  # events, counts, gaps, ends
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Index("log_node_by_ref", "kind", "ref"),
    Index("log_node_by_agent", "agent"),
    Index("log_node_by_name", "name", "kind", "session"),  # answers in which sessions a name was delegated to
    Index("log_node_by_session", "session"),
    Index("log_node_by_subject", "subject"),
)

RECORD: Final = Table(
    "log_record",
    METADATA,
    Column("idx", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),  # when it was decided, by the verifier's clock
    Column("node", BigInteger, nullable=False),
    Column("source", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # in its source
    Column("outcome", SmallInteger, nullable=False),
    Column("code", String(MAX_CODE), nullable=False),  # ``ok``, the reason, ``counted``, ``gap``, or ``event``
    Column("tool", Text, nullable=False),  # or the event's kind
    Column("kept", LargeBinary, nullable=False),  # the leaf: its hash is that of these bytes
    Column("body", LargeBinary),  # NULL once it was erased
    Index("log_record_by_node", "node", "idx", "outcome"),  # answers which of some nodes' calls were refused
    Index("log_record_by_tool", "tool", "idx"),
)
# Most records are allowed calls: no index has them by outcome or code.
_REFUSED, _NOT_ALLOWED = RECORD.c.outcome > ALLOW, RECORD.c.outcome != ALLOW
Index("log_record_by_code", RECORD.c.code, RECORD.c.idx, sqlite_where=_REFUSED, postgresql_where=_REFUSED)
Index("log_record_by_outcome", RECORD.c.outcome, RECORD.c.idx, sqlite_where=_NOT_ALLOWED, postgresql_where=_NOT_ALLOWED)

# Records by time: each is in its minute, its hour and its day, so that any time is the sum of a few rows.
TOTAL: Final = Table(
    "log_total",
    METADATA,
    Column("what", SmallInteger, primary_key=True, autoincrement=False),  # a number of ``time_totals.KINDS``
    Column("span", SmallInteger, primary_key=True, autoincrement=False),  # a place in ``time_totals.SPANS_MS``
    Column("at", BigInteger, primary_key=True, autoincrement=False),  # number of the span since the Unix epoch
    Column("name", Text, primary_key=True),  # empty for all names, or for those that are not kept one by one
    Column("allow", BigInteger, nullable=False),
    Column("deny", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("counted", BigInteger, nullable=False),  # unauthenticated refusals, which have no record each
    Column("other", BigInteger, nullable=False),  # events, gaps, and records of counts
    sqlite_with_rowid=False,
)

# Pruned blocks: the 256 leaf hashes of 256 records, whose rows in ``log_record`` were deleted.
PRUNED: Final = Table(
    "log_pruned",
    METADATA,
    Column("block", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

# Sources of records: a run of a verifier, the mint's own events, the store's log.
SOURCE: Final = Table(
    "log_source",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("verifier", Text, nullable=False),
    Column("boot", String(128), nullable=False),
    Column("audience", Text, nullable=False),
    Column("high_water", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),  # number of its records that were declared lost
    Column("seen_ms", BigInteger, nullable=False),  # when it last sent something, by the mint's clock
    Column("closed_ms", BigInteger),  # NULL until its run ended in order
    Index("log_source_by_run", "boot", "verifier", "audience", unique=True),
)

# Stretches of a source's records in the log: record ``idx + n`` has the sequence ``first + n``.
BATCH: Final = Table(
    "log_batch",
    METADATA,
    Column("idx", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("source", Integer, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("taken_ms", BigInteger, nullable=False),  # by the mint's clock
    Column("since_ms", BigInteger, nullable=False),  # the earliest and the latest ``at_ms``
    Column("until_ms", BigInteger, nullable=False),
    Column("statement", LargeBinary),  # signed by its service (LOG 2.2)
    Index("log_batch_by_source", "source", "first"),
    Index("log_batch_by_time", "until_ms"),
)

# Signed checkpoints; the next one continues the last.
CHECKPOINT: Final = Table(
    "log_checkpoint",
    METADATA,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("signed_ms", BigInteger, nullable=False),
    Column("note", LargeBinary, nullable=False),  # with the cosignatures received so far
    Column("edge", LargeBinary),  # of its tree, as in ``log_state``; not trusted: it must give the signed root
)
