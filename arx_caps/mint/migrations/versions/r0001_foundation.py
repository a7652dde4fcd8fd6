# SPDX-License-Identifier: Apache-2.0
"""The first form: agents, operators and their keys, sessions, tasks, services, used proofs, the high-water mark."""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of the first form."""
    op.create_table("meta", Column("name", String(32), primary_key=True), Column("value", Text, nullable=False))
    op.create_table(
        "operators",
        Column("id", String(64), primary_key=True),
        Column("status", String(16), nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_table(
        "agents",
        Column("path", String(64), primary_key=True),
        Column("status", String(16), nullable=False),
        Column("owner", Text),
        Column("metadata", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("ended_at", BigInteger),
    )
    op.create_table(
        "holder_keys",
        Column("kid", String(64), primary_key=True),
        Column("holder", String(96), nullable=False, index=True),
        Column("x", String(64), nullable=False),
        Column("added_at", BigInteger, nullable=False),
    )
    _work()
    op.create_table(
        "used_jti",
        Column("digest", String(64), primary_key=True),
        Column("until", BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "services",
        Column("audience", String(64), primary_key=True),
        Column("n", Integer, nullable=False),
        Column("enrolled_at", BigInteger, nullable=False),
        Column("enrolled_by", String(96), nullable=False),
    )
    op.create_table(
        "epoch_high_water",
        Column("realm", String(32), primary_key=True),
        Column("inc", String(32), nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("max_ttl_ms", BigInteger, nullable=False),
    )


def _work() -> None:
    op.create_table(
        "sessions",
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
    )
    op.create_index("sessions_by_time", "sessions", ["opened_at"])
    op.create_table(
        "tasks",
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
    )
    op.create_index("tasks_by_time", "tasks", ["started_at"])
