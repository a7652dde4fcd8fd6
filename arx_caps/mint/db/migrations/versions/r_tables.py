# SPDX-License-Identifier: Apache-2.0
"""The first revision: the tables as they are today."""

from alembic import op

from arx_caps.mint.db.tables import METADATA

revision = "0015_c80ccfc76a37"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    # A second revision has to replace this line by the tables as they are now: METADATA then has more.
    METADATA.create_all(op.get_bind())
