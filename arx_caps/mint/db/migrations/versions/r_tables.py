# SPDX-License-Identifier: Apache-2.0
"""The first revision: the tables without those that later revisions add."""

from alembic import op

from arx_caps.mint.db.tables import METADATA

# A revision that changes a table in this list has to write it out here as it was.
LATER = ("connection_links", "connections", "person_keys")

revision = "0015_c80ccfc76a37"
down_revision = None


def upgrade() -> None:
    """Create the tables of release 0.2.0."""
    METADATA.create_all(op.get_bind(), [table for table in METADATA.sorted_tables if table.name not in LATER])
    op.drop_column("approvals", "marks")  # of revision 17
