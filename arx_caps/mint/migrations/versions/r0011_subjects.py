# SPDX-License-Identifier: Apache-2.0
"""How long a subject's token lives is kept, so that a policy can shorten what runs on their behalf.

A session that was opened before ends when the policy of its opening said.
"""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.add_column("sessions", Column("subject_until", BigInteger))
