# SPDX-License-Identifier: Apache-2.0
"""The bans that stand, and up to which entry of the store's log they are known."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the two tables; the mint fills them from the store when it starts."""
    op.create_table(
        "epoch_followed",
        Column("realm", String(32), primary_key=True),
        Column("inc", String(32), nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("chain", String(40), nullable=False),
    )
    op.create_table(
        "epoch_bans",
        Column("scope", String(96), primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("by", String(96), nullable=False),
        Column("why", Text, nullable=False),
    )
