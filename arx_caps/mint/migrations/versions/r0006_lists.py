# SPDX-License-Identifier: Apache-2.0
"""Lists in pages, each with the index that it goes along; and calls that may be repeated."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Widen the indexes to what lists are ordered by, and add the table."""
    for name, table, columns in (
        ("sessions_by_time", "sessions", ["opened_at", "id"]),
        ("tasks_by_time", "tasks", ["started_at", "id"]),
    ):
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    for name, table, columns, before in (
        ("sessions_of_agents", "sessions", ["agent", "opened_at", "id"], "ix_sessions_agent"),
        ("tasks_of_sessions", "tasks", ["session", "started_at", "id"], "ix_tasks_session"),
    ):
        op.create_index(name, table, columns)
        op.drop_index(before, table)
    op.create_index("tasks_of_agents", "tasks", ["agent", "started_at", "id"])
    op.create_table(
        "repeats",
        Column("caller", String(96), primary_key=True),
        Column("key", String(64), primary_key=True),
        Column("digest", String(64), nullable=False),
        Column("facts", Text, nullable=False),
        Column("recipe", Text),
        Column("until", BigInteger, nullable=False),
    )
    op.create_index("ix_repeats_until", "repeats", ["until"])
