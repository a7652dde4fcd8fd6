# SPDX-License-Identifier: Apache-2.0
"""The third form: enrolment tokens of services."""

from alembic import op
from sqlalchemy import BigInteger, Column, String, column, table

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table, and say the form to versions that know no revisions."""
    op.create_table(
        "enrolments",
        Column("digest", String(64), primary_key=True),
        Column("audience", String(64), nullable=False),
        Column("by", String(96), nullable=False),
        Column("until", BigInteger, nullable=False),
    )
    meta = table("meta", column("name"), column("value"))
    op.execute(meta.update().where(meta.c.name == "schema").values(value=revision))
