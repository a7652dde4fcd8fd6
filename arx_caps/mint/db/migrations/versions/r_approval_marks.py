# SPDX-License-Identifier: Apache-2.0
"""The marks after which a call needs an approval."""

from alembic import op
from sqlalchemy import Column, Text

revision = "0017_b1964f2f4359"
down_revision = "0016_33a0f967666d"


def upgrade() -> None:
    """Add the column of the marks that operators are shown."""
    op.add_column("approvals", Column("marks", Text))
