# SPDX-License-Identifier: Apache-2.0
"""Policies by their digest."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table; it fills when a mint starts."""
    op.create_table(
        "policies",
        Column("digest", String(32), primary_key=True),
        Column("text", Text, nullable=False),
        Column("first_at", BigInteger, nullable=False),
        Column("in_force_at", BigInteger, nullable=False),
        Column("by", String(96), nullable=False),
    )
