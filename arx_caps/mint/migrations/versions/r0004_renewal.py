# SPDX-License-Identifier: Apache-2.0
"""Sessions that can be renewed: each has an absolute limit beside the end of its token."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the limit; what was opened before ends when it was said to."""
    op.add_column("sessions", Column("ends_at", BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE sessions SET ends_at = expires_at")
