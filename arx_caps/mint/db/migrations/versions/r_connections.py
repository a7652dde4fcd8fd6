# SPDX-License-Identifier: Apache-2.0
"""Accounts of people at upstreams."""

from alembic import op

from arx_caps.mint.db.tables import CONNECTION_LINKS, CONNECTIONS, METADATA, PERSON_KEYS

revision = "0016_33a0f967666d"
down_revision = "0015_c80ccfc76a37"


def upgrade() -> None:
    """Add the tables of people's keys, their connections, and links."""
    METADATA.create_all(op.get_bind(), [PERSON_KEYS, CONNECTIONS, CONNECTION_LINKS])
