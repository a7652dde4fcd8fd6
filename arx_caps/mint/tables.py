# SPDX-License-Identifier: Apache-2.0
"""The mint's tables, and how a database is opened for them.

SQLite in the realm's folder, or PostgreSQL when several mints share a realm: nothing here but the hooks below is one
system's own.  Times are ms since the Unix epoch.  No table holds a token or a private key.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine import Connection, Engine

SCHEMA: Final = 1
BUSY_S: Final = 5  # how long a writer waits for another one
READING: Final = "arx_reading"  # execution option: a transaction that takes no write lock

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
    Column("agent", String(64), ForeignKey("agents.path"), nullable=False, index=True),
    Column("jkt", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("purpose", Text),
    Column("policy", String(32), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("inc", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("sessions_by_time", "opened_at"),
)

TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("session", String(32), ForeignKey("sessions.id"), nullable=False, index=True),
    Column("agent", String(64), nullable=False),
    Column("template", String(64), nullable=False),
    Column("params", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("link", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("policy", String(32), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("inc", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("tasks_by_time", "started_at"),
)

# The unique key is what makes a jti single use, also between two mints that share this database.
USED_JTI: Final = Table(
    "used_jti",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("until", BigInteger, nullable=False, index=True),
)

SERVICES: Final = Table(
    "services",
    METADATA,
    Column("audience", String(64), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("enrolled_by", String(96), nullable=False),
)

# The highest place in the kill sequence that this mint has acted on: a store that has less has lost kills.
HIGH_WATER: Final = Table(
    "epoch_high_water",
    METADATA,
    Column("realm", String(32), primary_key=True),
    Column("inc", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("max_ttl_ms", BigInteger, nullable=False),
)


def open_engine(url: str) -> Engine:
    """Open a database.

    Args:
        url: SQLAlchemy's form, such as ``sqlite:////srv/acme/mint.db``.
    """
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False})
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by its own rules, and late: BEGIN is said below.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was answered survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later could otherwise fail in its middle.
    reading = connection.get_execution_options().get(READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
