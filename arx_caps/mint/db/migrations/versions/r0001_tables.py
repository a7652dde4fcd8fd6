# SPDX-License-Identifier: Apache-2.0
"""The first form: the tables as they are today.

The step that follows this one writes here, table by table, what this one made: ``tables`` then says more.
"""

from alembic import op

from arx_caps.mint.db.tables import METADATA

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    METADATA.create_all(op.get_bind())
