# SPDX-License-Identifier: Apache-2.0
"""The log's tables, on SQLite (a file of its own) and PostgreSQL (in the mint's database) alike.  SPEC 17, 18.

``log_record`` is the log; every other table is an index of it, or says how far something is.  Times are ms since the
Unix epoch.  A record's index is its place in the Merkle tree: contiguous from 0, never given twice.

*Nodes.*  A node is whoever a record is about: a session, a task of it, a delegation, and so on down (``nodes`` tells
which).  Its ``path`` is the 8-byte ids of all nodes from its root to itself: everything below a node is what has
a path that begins with its path.  To ask by something, find nodes, then their records by ``(node, idx)``:

* a session, task, sub-task, link, operator, service: ``kind`` and ``ref``, then what is below;
* an agent, or all agents below it: ``agent``; whom it was for: ``subject``, a target as ``arx kill`` takes it.

*Totals.*  ``allow``, ``deny`` and ``other`` of a node count its own records, not those below it; the sum over a path is
that of a session or a delegate.  They are added up with each checkpoint and not with each batch, so that a node that
many batches meet is written once: records from ``counted`` on are not in them yet (``totals``).

*Outcomes.*  ``outcome`` is one of the numbers below.  What was refused, ended, counted or is missing is above
``ALLOW``: ``outcome > 1`` is what the two partial indexes hold.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, Text

METADATA: Final = MetaData()
SCHEMA: Final = "1"

EVENT: Final = 0  # something that happened at the mint
ALLOW: Final = 1
DENY: Final = 2
END: Final = 3  # running work that was ended
COUNTED: Final = 4  # refusals of what was not proven, by number
GAP: Final = 5  # records that are missing
MAX_TEXT: Final = 256  # characters of a text that is asked by; longer than any that can be asked for
MAX_CODE: Final = 64
MAX_NUMBER: Final = 2**53 - 1  # of a sequence or a time; what comes after it has no exact form in JSON


def asked_by(text: str) -> str:
    """Return a text as the columns hold it by which a record is found; what was said stands in the record itself.

    A holder chooses what it calls a tool: PostgreSQL keeps no zero character, and no index an entry of any length.
    """
    return text if len(text) <= MAX_TEXT and "\0" not in text else text[:MAX_TEXT].replace("\0", "\ufffd")


META: Final = Table(
    "log_meta", METADATA, Column("name", String(32), primary_key=True), Column("value", Text, nullable=False)
)

# One row, which every writer locks first: whoever holds it is alone, on whichever machine.
STATE: Final = Table(
    "log_state",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("size", BigInteger, nullable=False),  # of the tree
    Column("edge", LargeBinary, nullable=False),  # its complete subtrees, largest first, 32 bytes each
    Column("nodes", BigInteger, nullable=False),  # how many there are; their ids count from 1
    Column("first", BigInteger, nullable=False),  # the first record that retention has left
    Column("counted", BigInteger, nullable=False, server_default="0"),  # the first that is in no total yet
    Column("erasures", BigInteger, nullable=False),  # how often nodes were changed: what is remembered of them is void
)

NODE: Final = Table(
    "log_node",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("path", LargeBinary, nullable=False, unique=True),
    Column("key", LargeBinary, nullable=False, unique=True),  # SHA-256 over all that makes it itself
    Column("parent", BigInteger),
    Column("kind", String(16), nullable=False),
    Column("ref", Text, nullable=False),
    Column("name", Text, nullable=False),  # the agent's path, or what the previous holder named the next one
    Column("session", Text, nullable=False),  # empty where there is none
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
    Index("log_node_by_name", "name"),
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
    Index("log_record_by_node", "node", "idx"),
    Index("log_record_by_tool", "tool", "idx"),
)
_REFUSED = RECORD.c.outcome > ALLOW
Index("log_record_refused", RECORD.c.idx, sqlite_where=_REFUSED, postgresql_where=_REFUSED)
Index("log_record_by_code", RECORD.c.code, RECORD.c.idx, sqlite_where=_REFUSED, postgresql_where=_REFUSED)

# What retention took: of 256 records the 256 leaf hashes.  Their rows in ``log_record`` are gone.
PRUNED: Final = Table(
    "log_pruned",
    METADATA,
    Column("block", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

# Whose records there are: one run of one verifier, the mint's own events, the store's log.
SOURCE: Final = Table(
    "log_source",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("verifier", Text, nullable=False),
    Column("boot", String(128), nullable=False),
    Column("audience", Text, nullable=False),
    Column("high_water", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),  # how many of its records never came
    Column("seen_ms", BigInteger, nullable=False),  # when it last sent something, by the mint's clock
    Column("closed_ms", BigInteger),  # NULL until its run ended in order
    Index("log_source_by_run", "boot", "verifier", "audience", unique=True),
)

# The stretches in which a source's records came: record ``idx + n`` is its ``first + n``.
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
    Column("statement", LargeBinary),  # with which its service answers for it (SPEC 18.2)
    Index("log_batch_by_source", "source", "first"),
    Index("log_batch_by_time", "until_ms"),
)

# Checkpoints that were signed; the last one is what the next one continues.
CHECKPOINT: Final = Table(
    "log_checkpoint",
    METADATA,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("signed_ms", BigInteger, nullable=False),
    Column("note", LargeBinary, nullable=False),  # with the lines of witnesses, once they came
    Column("edge", LargeBinary),  # of its tree, as in ``log_state``: it proves itself, as it gives the signed root
)
