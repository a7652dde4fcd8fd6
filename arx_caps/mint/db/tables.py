# SPDX-License-Identifier: Apache-2.0
"""The mint's tables, on SQLite and PostgreSQL alike.

Times are ms since the Unix epoch.  No table holds a token or a private key.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

METADATA: Final = MetaData()

META: Final = Table(
    "meta", METADATA, Column("name", String(32), primary_key=True), Column("value", Text, nullable=False)
)

OPERATORS: Final = Table(
    "operators",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("role", String(32), nullable=False, server_default="admin"),  # what all were before there were roles
    Column("rules", Text),
    Column("ended_at", BigInteger),
)

AGENTS: Final = Table(
    "agents",
    METADATA,
    Column("path", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("owner", Text),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

# One key belongs to one agent or operator: who signs is never ambiguous.
HOLDER_KEYS: Final = Table(
    "holder_keys",
    METADATA,
    Column("kid", String(64), primary_key=True),
    Column("holder", String(96), nullable=False, index=True),
    Column("x", String(64), nullable=False),
    Column("added_at", BigInteger, nullable=False),
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("agent", String(64), ForeignKey("agents.path"), nullable=False),
    Column("jkt", String(64), nullable=False),
    Column("opened_with", Text),
    Column("subject_issuer", Text),
    Column("subject", Text),
    Column("subject_claims", Text),
    Column("subject_until", BigInteger),  # when the token that proved the subject ends
    Column("status", String(16), nullable=False),
    Column("purpose", Text),
    Column("policy", String(32), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # of the token that lives longest
    Column("ends_at", BigInteger, nullable=False, server_default="0"),  # no renewal goes beyond
    Column("ended_at", BigInteger),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("sessions_by_time", "opened_at", "id"),
    Index("sessions_of_agents", "agent", "opened_at", "id"),
    Index("sessions_of_subjects", "subject", "opened_at", "id"),
)

TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("session", String(32), ForeignKey("sessions.id"), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("subject_target", String(64)),
    Column("above", Text, nullable=False, server_default="[]"),  # the tasks it is a part of, the outermost first
    Column("template", String(64), nullable=False),
    Column("params", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("link", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("policy", String(32), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("tasks_by_time", "started_at", "id"),
    Index("tasks_of_sessions", "session", "started_at", "id"),
    Index("tasks_of_agents", "agent", "started_at", "id"),
    Index("tasks_of_templates", "template", "started_at", "id"),
    Index("tasks_by_template", "session", "template"),
)

# What a task may do, as often as that was granted: at its start, by an extension, by an attenuation in the place of
# all.
TASK_GRANTS: Final = Table(
    "task_grants",
    METADATA,
    Column("link", String(32), primary_key=True),  # the first link of its tokens
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
    Column("content", Text, nullable=False),
    Column("policy", String(32), nullable=False),
    Column("granted_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("replaced_by", String(32)),
)

# What was asked to be approved, and what operators said.  Whether its task still runs is in the task's row.
APPROVALS: Final = Table(
    "approvals",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
    Column("session", String(32), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("subject_issuer", Text),
    Column("subject", Text),
    Column("template", String(64), nullable=False),
    Column("audience", String(64), nullable=False),
    Column("caveat", Text, nullable=False),  # the third-party caveat, as it stands in the token
    Column("tool", String(96), nullable=False),
    Column("args", Text, nullable=False),
    Column("why", Text),
    Column("need", Integer, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("once", Integer, nullable=False),  # 1: good for one call
    Column("status", String(16), nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),  # the operators who said yes
    Column("denied_by", String(64)),
    Column("answer_why", Text),
    Column("approved_at", BigInteger),
    Column("expires_at", BigInteger),  # of its discharge
    Index("approvals_by_time", "asked_at", "id"),
    Index("approvals_of_sessions", "session", "asked_at", "id"),
    Index("approvals_waiting", "session", "status"),  # of a session are few, of a state all that nobody ever answered
    Index("approvals_in_state", "status", "asked_at", "id"),
)

# The unique key is what makes a jti single use, also between two mints that share this database.
USED_JTI: Final = Table(
    "used_jti",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("until", BigInteger, nullable=False, index=True),
)

# What calls with an Idempotency-Key made: their events' facts, and what the tokens said without what signs them.
REPEATS: Final = Table(
    "repeats",
    METADATA,
    Column("caller", String(96), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("facts", Text, nullable=False),
    Column("recipe", Text),
    Column("until", BigInteger, nullable=False, index=True),
)

SERVICES: Final = Table(
    "services",
    METADATA,
    Column("audience", String(64), primary_key=True),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("enrolled_by", String(96), nullable=False),
)

# The realm's root keys.  What is sealed here opens as the root keys' file does; the first one is in that file alone.
ROOT_KEYS: Final = Table(
    "root_keys",
    METADATA,
    Column("name", String(16), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("mints_from", BigInteger),
    Column("waits", Integer, nullable=False),  # 1: for services that have not fetched it; 0: for nobody
    Column("used_at", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
    Column("nonce", Text),
    Column("sealed", Text),
)

# The numbers of audience keys: one is given to one audience, so that its key id names that audience's key alone.
AUDIENCE_KEYS: Final = Table(
    "audience_keys",
    METADATA,
    Column("audience", String(64), primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
)

# Every policy that was in force, as it was written; the one with the latest time is.
POLICIES: Final = Table(
    "policies",
    METADATA,
    Column("digest", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("in_force_at", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
)

# What each own key of a service fetched last; a file that an operator carried there counts as ``file:`` and audience.
KEY_FETCHES: Final = Table(
    "key_fetches",
    METADATA,
    Column("holder_key", String(96), primary_key=True),
    Column("audience", String(64), nullable=False),
    Column("kids", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# Enrolment tokens that nobody has used: each is deleted by its one use.  Their text is not kept.
ENROLMENTS: Final = Table(
    "enrolments",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("audience", String(64), nullable=False),
    Column("by", String(96), nullable=False),
    Column("until", BigInteger, nullable=False),
)

# The highest place in the kill sequence that this mint has acted on: a store that has less has lost kills.
HIGH_WATER: Final = Table(
    "epoch_high_water",
    METADATA,
    Column("realm", String(32), primary_key=True),
    Column("incarnation", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("chain", String(40), nullable=False, server_default=""),  # what led to it; empty where that is not known
    Column("max_ttl_ms", BigInteger, nullable=False),
)

# Up to which entry of the store's log the freezes below are known.
FOLLOWED: Final = Table(
    "epoch_followed",
    METADATA,
    Column("realm", String(32), primary_key=True),
    Column("incarnation", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("chain", String(40), nullable=False),
)

# Every freeze that stands, those that were made past the mint too: a store that has lost them gets them again.
FREEZES: Final = Table(
    "epoch_freezes",
    METADATA,
    Column("target", String(96), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
    Column("why", Text, nullable=False),
)

# What happened, written with the change that it tells; numbers are never used again.
OUTBOX: Final = Table(
    "outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("mint", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("by", String(96), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("outbox_by_time", "at_ms"),
    sqlite_autoincrement=True,
)
