# SPDX-License-Identifier: Apache-2.0
"""What agents asked to have approved, and what operators said."""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the table and its indexes."""
    op.create_table(
        "approvals",
        Column("id", String(32), primary_key=True),
        Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
        Column("session", String(32), nullable=False),
        Column("agent", String(64), nullable=False),
        Column("subject_issuer", Text),
        Column("subject", Text),
        Column("template", String(64), nullable=False),
        Column("audience", String(64), nullable=False),
        Column("caveat", Text, nullable=False),
        Column("tool", String(96), nullable=False),
        Column("args", Text, nullable=False),
        Column("why", Text),
        Column("need", Integer, nullable=False),
        Column("ttl_ms", BigInteger, nullable=False),
        Column("once", Integer, nullable=False),
        Column("status", String(16), nullable=False),
        Column("asked_at", BigInteger, nullable=False),
        Column("by", Text, nullable=False),
        Column("denied_by", String(64)),
        Column("answer_why", Text),
        Column("approved_at", BigInteger),
        Column("expires_at", BigInteger),
    )
    op.create_index("approvals_by_time", "approvals", ["asked_at", "id"])
    op.create_index("approvals_of_sessions", "approvals", ["session", "asked_at", "id"])
    op.create_index("approvals_waiting", "approvals", ["session", "status"])
    op.create_index("approvals_in_state", "approvals", ["status", "asked_at", "id"])
