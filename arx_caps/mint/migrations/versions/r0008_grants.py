# SPDX-License-Identifier: Apache-2.0
"""What each task was granted is kept, so that it can be narrowed and extended; and which tasks are parts of others.

A task that was started before has no grant here, and can only be finished.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, String, Text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the table and the column."""
    op.create_table(
        "task_grants",
        Column("link", String(32), primary_key=True),
        Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
        Column("content", Text, nullable=False),
        Column("policy", String(32), nullable=False),
        Column("granted_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("ended_at", BigInteger),
        Column("replaced_by", String(32)),
    )
    op.add_column("tasks", Column("above", Text, nullable=False, server_default="[]"))
